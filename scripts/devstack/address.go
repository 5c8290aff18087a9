package devstack

import (
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
)

// Ports that Address hands out: below 32768, where Linux begins to take ports for outgoing connections, so that no client of another
// process can have one before the server that it is for listens there.
const firstPort, ports = 20000, 12000

var handedOut atomic.Uint32

// Address is an address of this machine that nobody listens on, for a server that a test starts later.
func Address(t testing.TB) string {
	t.Helper()
	for range ports {
		// Each process begins at a place of its own.
		n := uint32(os.Getpid())*61 + handedOut.Add(1)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(firstPort+int(n%ports))))
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return l.Addr().String()
	}
	t.Fatalf("no port from %d to %d is free", firstPort, firstPort+ports-1)
	return ""
}
