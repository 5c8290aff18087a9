package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/netutil"

	"tandem/jobs/serve"
	"tandem/jobs/serve/read"
	"tandem/schemas/store/pebblestore"
)

// hostileServer serves a tenant to two connections at once, each request for a short time, and one request of the tenant at a time;
// GET /shop/endless is longer than any buffer.
func hostileServer(t *testing.T) (address string) {
	t.Helper()
	st, err := pebblestore.Open("", pebblestore.Options{InMemory: true, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	chain, err := shopChain()
	if err != nil {
		t.Fatal(err)
	}
	h := serve.NewHandler(serve.Config{Log: slog.New(slog.DiscardHandler), Now: time.Now, Reader: read.New(st, read.Options{Limits: read.DefaultLimits(), Now: time.Now}),
		Limits:  serve.Limits{Concurrent: 1, Working: 1, PerSecond: 1e6, Burst: 1e6, Body: 1 << 20},
		Tenant:  func(string) *serve.Tenant { return &serve.Tenant{Chain: chain, Formulas: serve.AnyFormulas()} },
		Tenants: func() []string { return []string{"shop"} },
		Pages: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for range 1 << 10 {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		})})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- serveHTTP(ctx, netutil.LimitListener(l, 2), h, patience{header: 300 * time.Millisecond, body: 600 * time.Millisecond, answer: 900 * time.Millisecond})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// A client that trickles its header, or its body, or never reads what it is answered, is cut off: its connection is closed, and what it
// was in the way of, a connection and the tenant's turn, is there for others again.
func TestSlowClients(t *testing.T) {
	const header = "POST /shop HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n"
	ask := `{"formulas":[{"id":"visits"}]}`
	for _, c := range []struct {
		name, first string
		trickle     string
		read        bool // what is answered
		held        bool // the tenant's only turn is taken meanwhile
	}{
		{"header", header, "X-A: b\r\n", true, false},
		{"body", header + "\r\n{", " ", true, true},
		{"answer", "GET /shop/endless HTTP/1.1\r\nHost: x\r\n\r\n", "", false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			address := hostileServer(t)
			slow, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer slow.Close()
			at := time.Now()
			if c.name == "header" { // and a second one: no connection is left for anybody
				other, err := net.Dial("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				defer other.Close()
			}
			if _, err := io.WriteString(slow, c.first); err != nil {
				t.Fatal(err)
			}
			ended := make(chan string, 1)
			if c.read {
				go func() {
					data, _ := io.ReadAll(bufio.NewReader(slow)) // until the server closes it
					ended <- string(data)
				}()
			}
			post := func() *http.Response {
				res, err := http.Post("http://"+address+"/shop", "application/json", strings.NewReader(ask))
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				return res
			}
			refused, answered := false, false
			for time.Since(at) < 10*time.Second && !answered {
				if c.trickle != "" {
					io.WriteString(slow, c.trickle) // an error is that it is cut off
				}
				switch res := post(); res.StatusCode {
				case http.StatusTooManyRequests:
					refused = true
					if res.Header.Get("Retry-After") != "1" {
						t.Errorf("Retry-After %q", res.Header.Get("Retry-After"))
					}
				case http.StatusOK:
					answered = !c.held || refused
				default:
					t.Fatal(res.Status)
				}
				time.Sleep(20 * time.Millisecond)
			}
			if !answered || refused != c.held {
				t.Errorf("refused %v, then answered %v", refused, answered)
			}
			if !c.read {
				return
			}
			select {
			case said := <-ended:
				if c.name == "body" && !strings.HasPrefix(said, "HTTP/1.1 408 ") {
					t.Errorf("it was told %q", said)
				}
			case <-time.After(5 * time.Second):
				t.Error("its connection is not closed")
			}
		})
	}
}
