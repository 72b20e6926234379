#!/usr/bin/env bash
# Fills in the addresses once there are some: `bash launch/publish.sh OWNER/NAME` of a repository on GitHub writes badges
# into README, the site's and the repository's address into mkdocs.yml, the code's into CITATION.cff and the notebooks.
# It may run again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
repository="${1:-}"
if [[ ! $repository =~ ^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$ ]]; then
  echo "error: launch/publish.sh '$repository': name a repository on GitHub as OWNER/NAME" >&2
  exit 78
fi
owner="${repository%%/*}" name="${repository#*/}"
code="https://github.com/$repository" site="https://${owner,,}.github.io/$name"
colab="https://colab.research.google.com/github/$repository/blob/main/launch/colab.ipynb"
badges="[![tests]($code/actions/workflows/tests.yml/badge.svg)]($code/actions/workflows/tests.yml) \
[![docs](https://img.shields.io/badge/docs-site-blue)]($site) \
[![Colab](https://colab.research.google.com/assets/colab-badge.svg)]($colab)"

# put FILE BEFORE PATTERN LINE: LINE stands behind the first line BEFORE; lines of a PATTERN go
put() {
  awk -v after="$2" -v old="$3" -v new="$4" '
    $0 ~ old { next }
    { print }
    $0 == after && !done { print new; done = 1 }
  ' "$1" > "$1.new"
  mv "$1.new" "$1"
}
put README.md '# score_jax' '^\[!\[tests\]' "$badges"
put mkdocs.yml 'site_name: score_jax' '^site_url:' "site_url: $site"
put mkdocs.yml 'site_name: score_jax' '^repo_url:' "repo_url: $code"
put CITATION.cff 'license: Apache-2.0' '^repository-code:' "repository-code: $code"
for notebook in launch/colab.ipynb launch/kaggle.ipynb; do
  sed "s#REPOSITORY = '[^']*'#REPOSITORY = '$code'#" "$notebook" > "$notebook.new"
  mv "$notebook.new" "$notebook"
done
echo "README.md, mkdocs.yml, CITATION.cff and launch/*.ipynb name $code and $site"
