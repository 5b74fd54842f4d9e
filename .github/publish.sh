#!/usr/bin/env bash
# Put the built site on a repository's branch gh-pages: bash .github/publish.sh REMOTE
# The branch holds one commit, so that the history of the pictures does not pile up.
set -euo pipefail
remote=${1:?give the address of the repository to push to}
source=$(git rev-parse HEAD)
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
cp -R _build/html/. "$site"
cd "$site"
touch .nojekyll  # the folders whose names begin with an underscore belong to the site
git init --quiet --initial-branch gh-pages
git add --all --force .
git -c user.name=publish -c user.email=publish@users.noreply.github.com \
  commit --quiet --message "The book as of $source"
git push --quiet --force "$remote" gh-pages
