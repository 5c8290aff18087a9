#!/usr/bin/env bash
# fetch.sh: resolves the server jars with Maven into $DEVSTACK_LIB. Needed once; does nothing when they are there.
# MM2=1 also fetches MirrorMaker 2.
. "$(dirname "$0")/env.sh"
mkdir -p "$DEVSTACK_LIB"
exec 9>"$DEVSTACK_LIB/.lock"
flock 9 # one at a time: tests of several packages may ask for the jars at once

fetch() { # NAME DIR MVN_ARGS...: into a temporary folder, renamed only when complete
  local name=$1 dir=$2 t=$SECONDS; shift 2
  [ ! -d "$dir" ] || return 0
  command -v mvn >/dev/null || die "mvn not found"
  rm -rf "$dir.part"
  mvn -q -B -ntp -Dstyle.color=never -f "$HERE/$name/pom.xml" package "-Dlib.dir=$dir.part" "$@" || die "maven could not resolve $name"
  mv "$dir.part" "$dir"
  echo "$name: resolved in $((SECONDS - t)) s"
}

fetch kafka "$KAFKA_LIB" "-Dkafka.version=$KAFKA_VERSION"
fetch cassandra "$CASSANDRA_LIB" "-Dcassandra.version=$CASSANDRA_VERSION"
[ -z "${MM2:-}" ] || fetch kafka "$KAFKA_LIB-mm2" "-Dkafka.version=$KAFKA_VERSION" -P mm2
echo "jars: $(find "$DEVSTACK_LIB" -name '*.jar' | wc -l) files, $(du -sm "$DEVSTACK_LIB" | cut -f1) MB in $DEVSTACK_LIB"
