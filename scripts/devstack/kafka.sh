#!/usr/bin/env bash
# kafka.sh start [N=1] | stop [I] | wipe | status | addresses | kill I | pause I | continue I | restart I | topics ARGS...
#   | groups ARGS... | run CLASS ARGS... | mirror start NAME FILE | mirror kill NAME
# KRaft brokers (broker and controller in one process). Broker I of cluster KAFKA_CLUSTER (default dc1) listens on
# 127.NET.1.I:9092 (NET: DEVSTACK_NET), of dc2 on 127.NET.2.I, so two 'data centres' can run at once; controllers 9093,
# brokers among themselves and the tools here 9094. AUTH=1: clients must say who they are, user tandem, password secret,
# by PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512. TLS=1: clients must speak TLS and trust ca.pem (see status).
# mirror runs MirrorMaker 2 with a properties file (MM2=1 fetch.sh first); it is killed by wipe, of whichever cluster.
. "$(dirname "$0")/env.sh"
CLUSTER="${KAFKA_CLUSTER:-dc1}"
PREFIX="127.$DEVSTACK_NET.$([ "$CLUSTER" = dc2 ] && echo 2 || echo 1)"
PORT="${KAFKA_PORT:-9092}"
BASE="$RUN/kafka-$CLUSTER"
HEAP="${KAFKA_HEAP:-512m}"
LIB="$KAFKA_LIB"
[ -z "${MM2:-}" ] || LIB="$KAFKA_LIB-mm2"
LOG="-Dlog4j2.configurationFile=$HERE/conf/log4j2.properties"

usage() { sed -n '2,8s/^# //p' "$0"; exit 2; }
tool() { "$JAVA" -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 "$LOG" -Ddevstack.loglevel=error -cp "$LIB/*" "$@"; }
dir() { echo "$BASE-$1"; }
addr() { echo "$PREFIX.$1"; }
count() { cat "$BASE.n" 2>/dev/null || echo 0; }
bootstrap() { # every broker that runs
  local i b=""
  for ((i = 1; i <= $(count); i++)); do ! alive "$(dir "$i")" || b="$b,$(addr "$i"):$((PORT + 2))"; done
  [ -n "$b" ] || die "no broker of $CLUSTER runs"
  echo "${b#,}"
}

prepare() { # I N: configuration and storage format of one broker; the format step happens once
  local i=$1 n=$2 d v="" j rf misr protocol=PLAINTEXT users=() u="SCRAM-SHA-256=[name=tandem,password=secret]"
  d=$(dir "$i")
  rf=$((n >= 3 ? 3 : 1)) misr=$((n >= 3 ? 2 : 1))
  for ((j = 1; j <= n; j++)); do v="$v,$j@$(addr "$j"):$((PORT + 1))"; done
  mkdir -p "$d"
  [ -z "${TLS:-}" ] || protocol=SSL
  [ -z "${AUTH:-}" ] || protocol=SASL_$protocol
  [ -z "${AUTH:-}" ] || users=(--add-scram "$u" --add-scram "${u/256/512}")
  sed -e "s|@ID@|$i|; s|@PROTOCOL@|$protocol|; s|@IPORT@|$((PORT + 2))|g; s|@VOTERS@|${v#,}|; s|@ADDR@|$(addr "$i")|g; s|@PORT@|$PORT|g; s|@CPORT@|$((PORT + 1))|" \
    -e "s|@DIR@|$d|; s|@RF@|$rf|; s|@MINISR@|$misr|; s|@RACK@|rack$i|" "$HERE/conf/server.properties.tmpl" >"$d/server.properties"
  [ -z "${AUTH:-}" ] || cat "$HERE/conf/kafka-auth.properties" >>"$d/server.properties"
  if [ -n "${TLS:-}" ]; then
    certificate
    printf 'ssl.keystore.type=PKCS12\nssl.keystore.location=%s\nssl.keystore.password=%s\n' "$RUN/keystore.p12" "$SECRET" >>"$d/server.properties"
  fi
  [ -f "$d/data/meta.properties" ] || tool kafka.tools.StorageTool format -t "$(cat "$BASE.id")" -c "$d/server.properties" \
    ${users[@]+"${users[@]}"} \
    >"$d/format.log" 2>&1 || { cat "$d/format.log" >&2; die "storage format failed"; }
}

launch_broker() {
  launch "$(dir "$1")" "-Xms$HEAP" "-Xmx$HEAP" "$LOG" -cp "$LIB/*" kafka.Kafka "$(dir "$1")/server.properties"
}

await() { # the broker says 'started' once the controllers have unfenced it: it then takes part in the cluster
  wait_ready "$(dir "$1")" "$(addr "$1")" "$PORT" 'Kafka Server started' "${START_TIMEOUT:-60}"
  echo "kafka $CLUSTER broker $1 ready on $(addr "$1"):$PORT, pid $(cat "$(dir "$1")/pid")"
}

mirror() { # start NAME FILE | kill NAME
  local d="$RUN/mirror-${2:?name}"
  case "$1" in
  start)
    [ -d "$KAFKA_LIB-mm2" ] || die "no MirrorMaker 2: run MM2=1 fetch.sh"
    ! alive "$d" || die "mirror $2 runs already"
    mkdir -p "$d"
    launch "$d" -Xmx256m "$LOG" -Ddevstack.loglevel=warn -cp "$KAFKA_LIB-mm2/*" org.apache.kafka.connect.mirror.MirrorMaker "${3:?properties file}" ;;
  kill) crash_server "$d" ;;
  *) usage ;;
  esac
}

start() { # N
  local n=$1 i new=()
  [[ "$n" =~ ^[1-9]$ ]] || usage
  [ "$(count)" = 0 ] || [ "$(count)" = "$n" ] || die "$CLUSTER was made with $(count) broker(s): '$0 wipe' first"
  [ -s "$BASE.id" ] || # a cluster id: 16 random bytes, URL-safe base64
    head -c 16 /dev/urandom | base64 | tr '+/' 'AB' | tr -d '=\n' >"$BASE.id"
  echo "$n" >"$BASE.n"
  for ((i = 1; i <= n; i++)); do
    alive "$(dir "$i")" && continue
    prepare "$i" "$n"
    new+=("$i")
  done
  for i in ${new[@]+"${new[@]}"}; do launch_broker "$i"; done # all at once: they need a quorum
  for ((i = 1; i <= n; i++)); do await "$i"; done
}

case "${1:-}" in
start) [ -d "$LIB" ] || die "no jars: run fetch.sh"; start "${2:-1}" ;;
stop) stop_servers "$BASE"-${2:-[0-9]} ;;
wipe)
  for d in "$RUN"/mirror-*; do ! alive "$d" || crash_server "$d"; done
  for ((i = 1; i <= $(count); i++)); do ! alive "$(dir "$i")" || crash_server "$(dir "$i")"; done
  rm -rf "$BASE"-[0-9] "$BASE".n "$BASE".id "$RUN"/mirror-* ;;
status)
  for ((i = 1; i <= $(count); i++)); do show "$(dir "$i")" "$(addr "$i"):$PORT"; done
  [ ! -f "$RUN/ca.pem" ] || echo "certificate to trust: $RUN/ca.pem" ;;
addresses) for ((i = 1; i <= $(count); i++)); do echo "$(addr "$i"):$PORT"; done | paste -sd, ;;
kill) crash_server "$(dir "${2:-?}")" ;;
pause) signal_server "$(dir "${2:-?}")" STOP ;;
continue) signal_server "$(dir "${2:-?}")" CONT ;;
restart)
  [ -d "$(dir "${2:-?}")" ] || die "no broker ${2:-?} in $CLUSTER"
  stop_servers "$(dir "$2")"; launch_broker "$2"; await "$2" ;;
mirror) shift; mirror "$@" ;;
topics) shift; tool org.apache.kafka.tools.TopicCommand --bootstrap-server "$(bootstrap)" "$@" ;;
groups) shift; tool org.apache.kafka.tools.consumer.group.ConsumerGroupCommand --bootstrap-server "$(bootstrap)" "$@" ;;
run) shift; tool "$@" ;; # for example: MM2=1 kafka.sh run org.apache.kafka.connect.mirror.MirrorMaker mm2.properties
*) usage ;;
esac
