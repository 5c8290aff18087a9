#!/usr/bin/env bash
# browser.sh: makes a browser and axe-core ready for the tests of the pages: Debian's Chromium, installed where apt-get may,
# and axe-core (MPL 2.0, used in tests only, never shipped) from npm into a folder of its own. Does nothing when they are there.
#
#   scripts/devstack/browser.sh     prints the browser's path and axe-core's, a line each
. "$(dirname "$0")/env.sh"
BROWSER=$CACHE/browser
mkdir -p "$BROWSER"
exec 9>"$BROWSER/.lock"
flock 9

find_browser() {
  command -v chromium || command -v chromium-browser || command -v google-chrome
}

if ! find_browser >/dev/null; then
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || die "no chromium: install Debian's package chromium"
  { apt-get update && apt-get install -y --no-install-recommends chromium; } >"$BROWSER/install.log" 2>&1 || die "chromium could not be installed: see $BROWSER/install.log"
fi

AXE_VERSION=4.14.1
axe=$BROWSER/axe-core-$AXE_VERSION.js
if [ ! -f "$axe" ]; then
  command -v npm >/dev/null || die "no npm, which fetches axe-core"
  t=$(mktemp -d)
  trap 'rm -rf "$t"' EXIT
  (cd "$t" && npm pack --silent "axe-core@$AXE_VERSION" >/dev/null && tar xzf ./*.tgz) || die "npm could not fetch axe-core $AXE_VERSION"
  mv "$t/package/axe.min.js" "$axe"
fi
find_browser
echo "$axe"
