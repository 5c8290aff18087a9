# Sourced by the other scripts. Linux only: it relies on every 127/8 address answering on loopback, and on /proc.
set -euo pipefail
# The first lines of a script are its help.
case "${1-}" in --help | -h) sed -n '2,${/^#/!q;s/^# \{0,1\}//;p}' "$0"; exit 0 ;; esac
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/tandem-devstack"
DEVSTACK_HOME="${DEVSTACK_HOME:-$CACHE}"
DEVSTACK_LIB="${DEVSTACK_LIB:-$CACHE/lib}" # the jars, shared by all stacks
DEVSTACK_NET="${DEVSTACK_NET:-0}"          # 0 to 99: stacks with different ones run side by side
RUN="$DEVSTACK_HOME/run"
KAFKA_VERSION="${KAFKA_VERSION:-4.1.1}"
CASSANDRA_VERSION="${CASSANDRA_VERSION:-5.0.8}"
KAFKA_LIB="$DEVSTACK_LIB/kafka-$KAFKA_VERSION"
CASSANDRA_LIB="$DEVSTACK_LIB/cassandra-$CASSANDRA_VERSION"
JAVA="${JAVA_HOME:+$JAVA_HOME/bin/}java"
KEYTOOL="${JAVA_HOME:+$JAVA_HOME/bin/}keytool"
# C1 only: starts faster and takes less memory. For throughput runs: DEVSTACK_JIT= (empty: full JIT).
read -r -a JIT <<<"${DEVSTACK_JIT--XX:TieredStopAtLevel=1}"
SECRET=devstack # the password of every key store
mkdir -p "$RUN"

die() { echo "devstack: $*" >&2; exit 1; }

[[ "$DEVSTACK_NET" =~ ^[1-9]?[0-9]$ ]] || die "DEVSTACK_NET=$DEVSTACK_NET is not in 0 to 99"

# Every server runs with -Ddevstack.dir=<its directory> and leaves its process id in <its directory>/pid.
# alive DIR: the recorded process exists and is still that server (a process id can be reused).
alive() {
  local pid
  pid=$(cat "$1/pid" 2>/dev/null) && [ -n "$pid" ] &&
    tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qxF -- "-Ddevstack.dir=$1"
}

launch() { # DIR ARGS...: a detached JVM, output to DIR/out.log (the one before is kept as out.log.1)
  local dir=$1; shift
  [ ! -f "$dir/out.log" ] || mv "$dir/out.log" "$dir/out.log.1"
  rm -f "$dir/pid"
  MALLOC_ARENA_MAX=2 setsid "$JAVA" "-Ddevstack.dir=$dir" -XX:+UseSerialGC -XX:+PerfDisableSharedMem \
    -XX:+ExitOnOutOfMemoryError -Djava.awt.headless=true "${JIT[@]}" "$@" >"$dir/out.log" 2>&1 </dev/null &
  echo $! >"$dir/pid"
}

wait_ready() { # DIR HOST PORT PATTERN SECONDS: the port answers and the log has PATTERN
  local dir=$1 h=$2 p=$3 pat=$4 end=$((SECONDS + $5))
  while [ "$SECONDS" -lt "$end" ]; do
    if grep -q -- "$pat" "$dir/out.log" && (exec 3<>"/dev/tcp/$h/$p") 2>/dev/null; then return 0; fi
    kill -0 "$(cat "$dir/pid")" 2>/dev/null || { tail -n 40 "$dir/out.log" >&2; die "$dir: the server died while starting"; }
    sleep 0.1
  done
  tail -n 40 "$dir/out.log" >&2
  die "$dir: not ready on $h:$p after ${5}s (log: $dir/out.log)"
}

stop_servers() { # DIR...: TERM to all at once, KILL to those left after 15 s (brokers without a quorum wait for ever)
  local d i=0 left=()
  for d; do ! alive "$d" || { kill "$(cat "$d/pid")" 2>/dev/null || true; left+=("$d"); }; done
  for d in ${left[@]+"${left[@]}"}; do
    while alive "$d" && ((i++ < 150)); do sleep 0.1; done
    ! alive "$d" || { kill -9 "$(cat "$d/pid")" 2>/dev/null || true; }
    rm -f "$d/pid"
    echo "$(basename "$d") stopped"
  done
}

signal_server() { # DIR SIGNAL
  alive "$1" || die "$(basename "$1") does not run"
  kill "-$2" "$(cat "$1/pid")"
}

crash_server() { # DIR: SIGKILL, returns when the process is gone
  local pid
  signal_server "$1" KILL
  pid=$(cat "$1/pid")
  while alive "$1"; do sleep 0.05; done
  rm -f "$1/pid"
  echo "$(basename "$1") killed (pid $pid)"
}

show() { # DIR ADDRESS: one line of state
  if alive "$1"; then
    echo "$(basename "$1")  up    $2  pid $(cat "$1/pid")  rss $(awk '/^VmRSS/ {print int($2 / 1024)}' "/proc/$(cat "$1/pid")/status") MB"
  else echo "$(basename "$1")  down  $2"; fi
}

certificate() { # makes $RUN/keystore.p12, and ca.pem that clients trust: one certificate for every address of the stack
  (
    flock 9 # Kafka and Cassandra may start at once
    [ ! -f "$RUN/keystore.p12" ] || exit 0
    san="dns:localhost"
    for n in 0 1 2; do for i in 1 2 3 4 5 6 7 8 9; do san="$san,ip:127.$DEVSTACK_NET.$n.$i"; done; done
    "$KEYTOOL" -genkeypair -alias server -keyalg EC -groupname secp256r1 -validity 3650 -dname CN=devstack -ext "san=$san" -ext bc=ca:true \
      -storetype PKCS12 -keystore "$RUN/keystore.part" -storepass "$SECRET" &&
      "$KEYTOOL" -exportcert -rfc -alias server -keystore "$RUN/keystore.part" -storepass "$SECRET" -file "$RUN/ca.pem" &&
      mv "$RUN/keystore.part" "$RUN/keystore.p12"
  ) >"$RUN/keytool.log" 2>&1 9>"$RUN/.lock" || { cat "$RUN/keytool.log" >&2; die "keytool failed"; }
}
