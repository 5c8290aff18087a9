package pages

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"tandem/core/tenant"
	"tandem/jobs/serve"
)

type unwritable struct{}

func (unwritable) Write([]byte) (int, error) { return 0, errors.New("full") }

// The log has an act before it happens, with the address of who asked for it, and once more if it failed.
func TestPromoteIsAudited(t *testing.T) {
	var log bytes.Buffer
	var fails error
	promoted, before := 0, ""
	s := &Stored{Audit: serve.NewAuditLog(&log), Promoter: func(context.Context, string, string) error {
		promoted++
		before = log.String()
		return fails
	}}
	var got error
	h := serve.NewHandler(serve.Config{Limits: serve.DefaultLimits(), Log: slog.New(slog.DiscardHandler), Now: time.Now,
		Tenant: func(string) *serve.Tenant { return &serve.Tenant{Chain: &tenant.Chain{Tenant: "shop"}} },
		Pages:  http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = s.Promote(r.Context(), "shop", "stream.dc2") })})
	promote := func() []serve.Act {
		log.Reset()
		r := httptest.NewRequest("POST", "/shop/promote", nil)
		r.RemoteAddr = "198.51.100.7:4711"
		h.ServeHTTP(httptest.NewRecorder(), r)
		var acts []serve.Act
		for d := json.NewDecoder(strings.NewReader(log.String())); d.More(); {
			var a serve.Act
			if err := d.Decode(&a); err != nil {
				t.Fatal(err)
			}
			acts = append(acts, a)
		}
		return acts
	}
	acts := promote()
	if got != nil || promoted != 1 || len(acts) != 1 || before != log.String() || acts[0].From != "198.51.100.7:4711" || acts[0].Detail != "stream.dc2" || acts[0].Error != "" {
		t.Errorf("%v, %d promoted, %+v", got, promoted, acts)
	}
	fails = errors.New("too far behind")
	if acts = promote(); !errors.Is(got, fails) || len(acts) != 2 || acts[0].Error != "" || acts[1].Error != "too far behind" {
		t.Errorf("%v, %+v", got, acts)
	}
	s.Audit = serve.NewAuditLog(unwritable{})
	if promote(); got == nil || promoted != 2 {
		t.Errorf("%v, %d promoted: nothing may be done that the log cannot tell of", got, promoted)
	}
}
