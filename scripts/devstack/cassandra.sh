#!/usr/bin/env bash
# cassandra.sh start [N=1] | stop [I] | wipe | status | addresses | kill I | pause I | continue I | restart I
#   | nodetool I ARGS...
# Node I listens on 127.NET.0.I (NET: DEVSTACK_NET): CQL 9042, storage 7000; JMX on 127.0.0.1:(17200 + 10 NET + I).
# DCS="dc1 dc1 dc2" gives the data centres of nodes 1..N (default: all dc1). AUTH=1: users (cassandra/cassandra).
# FLUSH_SCHEMA=false: tables are made some ten times as fast, and lost by a kill without 'nodetool I flush system_schema'.
# TLS=1: clients must speak TLS and trust ca.pem (see status).
# COMMITLOG=batch (default): a write is acknowledged once it is on disk. COMMITLOG=periodic: as a cluster in production
# usually runs, faster; a kill can then lose the writes that node acknowledged last.
. "$(dirname "$0")/env.sh"
LIB="$CASSANDRA_LIB"
PORT="${CASSANDRA_PORT:-9042}"
BASE="$RUN/cassandra"
HEAP="${CASSANDRA_HEAP:-512m}"
FLUSH_SCHEMA="${FLUSH_SCHEMA:-true}"
case "${COMMITLOG:-batch}" in
batch) SYNC='commitlog_sync: batch' ;;
periodic) SYNC='commitlog_sync: periodic\ncommitlog_sync_period: 10s' ;;
*) die "COMMITLOG is batch or periodic" ;;
esac
mapfile -t JPMS < <(grep -v '^#' "$HERE/conf/jvm17-cassandra.options" | grep .)

usage() { sed -n '2,9s/^# //p' "$0"; exit 2; }
dir() { echo "$BASE-$1"; }
addr() { echo "127.$DEVSTACK_NET.0.$1"; }
jmx() { echo $((17200 + 10 * DEVSTACK_NET + $1)); }
count() { cat "$BASE.n" 2>/dev/null || echo 0; }

token() { # I N: the Ith of N evenly spread Murmur3 tokens
  awk -v i="$1" -v n="$2" 'BEGIN { printf "%.0f", -9223372036854774784 + (i - 1) * (18446744073709551616 / n) }'
}

prepare() { # I N: the node's configuration
  local i=$1 n=$2 d dcs
  d=$(dir "$i")
  read -r -a dcs <<<"${DCS:-}"
  mkdir -p "$d/conf" "$d/tmp"
  printf 'dc=%s\nrack=rack%s\n' "${dcs[i - 1]:-dc1}" "$i" >"$d/conf/cassandra-rackdc.properties"
  sed -e "s|@ADDR@|$(addr "$i")|; s|@SEED@|$(addr 1)|; s|@DIR@|$d|; s|@PORT@|$PORT|; s|@TOKEN@|$(token "$i" "$n")|" \
    -e "s|@COMMITLOG@|$SYNC|" \
    "$HERE/conf/cassandra.yaml.tmpl" >"$d/conf/cassandra.yaml"
  [ -z "${AUTH:-}" ] || cat "$HERE/conf/cassandra-auth.yaml" >>"$d/conf/cassandra.yaml"
  if [ -n "${TLS:-}" ]; then
    certificate
    sed -e "s|@RUN@|$RUN|; s|@SECRET@|$SECRET|" "$HERE/conf/cassandra-tls.yaml.tmpl" >>"$d/conf/cassandra.yaml"
  fi
}

launch_node() { # I
  local d jamm fast
  d=$(dir "$1")
  jamm=$(ls "$LIB"/jamm-*.jar)
  if [ "$(count)" = 1 ]; then # nobody to gossip with
    fast=(-Dcassandra.skip_wait_for_gossip_to_settle=0 -Dcassandra.ring_delay_ms=1 -Dcassandra.load_ring_state=false)
  else
    fast=(-Dcassandra.gossip_settle_min_wait_ms=1000 -Dcassandra.gossip_settle_interval_ms=300
      -Dcassandra.gossip_settle_poll_success_required=2 -Dcassandra.ring_delay_ms=2000
      -Dcassandra.consistent.rangemovement=false)
  fi
  launch "$d" "-Xms$HEAP" "-Xmx$HEAP" -Xss512k -XX:MaxDirectMemorySize=256m "-javaagent:$jamm" "${JPMS[@]}" "${fast[@]}" \
    "-Dcassandra.test.flush_local_schema_changes=$FLUSH_SCHEMA" -Dcassandra.superuser_setup_delay_ms=0 -Dcassandra.shutdown_announce_in_ms=200 \
    "-Dcassandra.jmx.local.port=$(jmx "$1")" -Djava.net.preferIPv4Stack=true \
    "-Dcassandra.config=file://$d/conf/cassandra.yaml" "-Dcassandra.storagedir=$d" "-Dcassandra.logdir=$d" \
    "-Dcassandra-rackdc.properties=file://$d/conf/cassandra-rackdc.properties" \
    "-Dlogback.configurationFile=$HERE/conf/logback.xml" "-Djava.io.tmpdir=$d/tmp" -Dcassandra-foreground=yes \
    -cp "$LIB/*" org.apache.cassandra.service.CassandraDaemon
}

await() { # I
  wait_ready "$(dir "$1")" "$(addr "$1")" "$PORT" 'Startup complete' "${START_TIMEOUT:-120}"
  echo "cassandra node $1 ready on $(addr "$1"):$PORT, pid $(cat "$(dir "$1")/pid")"
}

nodetool() { # I ARGS...
  local i=$1; shift
  "$JAVA" -Xmx64m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 "${JPMS[@]}" "-Dcassandra.storagedir=$(dir "$i")" \
    "-Dlogback.configurationFile=$HERE/conf/logback.xml" -Dcassandra.loglevel=ERROR \
    -cp "$LIB/*" org.apache.cassandra.tools.NodeTool -p "$(jmx "$i")" "$@"
}

agreed() { # every node that runs sees every other as Up and Normal
  local i up=()
  for ((i = 1; i <= $(count); i++)); do ! alive "$(dir "$i")" || up+=("$i"); done
  [ "${#up[@]}" -gt 1 ] || return 0
  for i in "${up[@]}"; do
    for _ in {1..30}; do
      [ "$(nodetool "$i" status 2>/dev/null | grep -c '^UN')" != "${#up[@]}" ] || continue 2
      sleep 0.5
    done
    die "node $i does not see ${#up[@]} nodes up"
  done
}

start() { # N
  local n=$1 i new=()
  [[ "$n" =~ ^[1-9]$ ]] || usage
  [ "$(count)" = 0 ] || [ "$(count)" = "$n" ] || die "made with $(count) node(s): '$0 wipe' first"
  echo "$n" >"$BASE.n"
  for ((i = 1; i <= n; i++)); do
    alive "$(dir "$i")" && continue
    prepare "$i" "$n"
    launch_node "$i"
    [ "$i" != 1 ] || await 1 # the seed first, the others together
    new+=("$i")
  done
  for i in ${new[@]+"${new[@]}"}; do [ "$i" = 1 ] || await "$i"; done
  agreed
}

case "${1:-}" in
start) [ -d "$LIB" ] || die "no jars: run fetch.sh"; start "${2:-1}" ;;
stop) stop_servers "$BASE"-${2:-[0-9]} ;;
wipe)
  for ((i = 1; i <= $(count); i++)); do ! alive "$(dir "$i")" || crash_server "$(dir "$i")"; done
  rm -rf "$BASE"-[0-9] "$BASE".n ;;
status)
  up=""
  for ((i = 1; i <= $(count); i++)); do
    show "$(dir "$i")" "$(addr "$i"):$PORT"
    [ -n "$up" ] || ! alive "$(dir "$i")" || up=$i
  done
  [ ! -f "$RUN/ca.pem" ] || echo "certificate to trust: $RUN/ca.pem"
  [ -z "$up" ] || nodetool "$up" status ;;
addresses) for ((i = 1; i <= $(count); i++)); do echo "$(addr "$i"):$PORT"; done | paste -sd, ;;
kill) crash_server "$(dir "${2:-?}")" ;;
pause) signal_server "$(dir "${2:-?}")" STOP ;;
continue) signal_server "$(dir "${2:-?}")" CONT ;;
restart)
  [ -d "$(dir "${2:-?}")" ] || die "no node ${2:-?}"
  stop_servers "$(dir "$2")"; launch_node "$2"; await "$2"; agreed ;;
nodetool) shift; nodetool "${@:?node, then arguments}" ;;
*) usage ;;
esac
