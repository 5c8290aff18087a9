package serve

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"tandem/jobs/serve/read"
	"tandem/schemas/store"
	"tandem/schemas/store/storetest"
)

// frozen is what a store held, of the shop, to be read only.
type frozen struct {
	store.Store // what is not below is not asked for

	rows, rollups map[store.Series][]store.Row
	series        []store.Series
	coverage      []store.Coverage
	active        store.Active
}

// freeze copies what a store holds before minute to.
func freeze(t testing.TB, st store.Store, to int64) *frozen {
	ctx := context.Background()
	f := &frozen{rows: map[store.Series][]store.Row{}, rollups: map[store.Series][]store.Row{}}
	must(t, st.Catalog(ctx, "shop", func(s store.Series) error {
		f.series = append(f.series, s)
		return nil
	}))
	for _, s := range f.series {
		into := func(of map[store.Series][]store.Row) func(minute, version int64, value []byte) error {
			return func(minute, version int64, value []byte) error {
				of[s] = append(of[s], store.Row{Series: s, Minute: minute, Version: version, Value: append([]byte{}, value...)})
				return nil
			}
		}
		must(t, st.Rows(ctx, s, 0, to, into(f.rows)))
		must(t, st.Rollups(ctx, s, 0, to, into(f.rollups)))
	}
	must(t, st.Coverage(ctx, "shop", 0, to, func(c store.Coverage) error {
		f.coverage = append(f.coverage, c)
		return nil
	}))
	var err error
	f.active, _, err = st.Active(ctx, "shop")
	must(t, err)
	return f
}

func each(rows []store.Row, from, to int64, fn func(minute, version int64, value []byte) error) error {
	for _, r := range rows {
		if r.Minute >= from && r.Minute < to {
			if err := fn(r.Minute, r.Version, r.Value); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *frozen) Rows(_ context.Context, s store.Series, from, to int64, fn func(minute, version int64, value []byte) error) error {
	return each(f.rows[s], from, to, fn)
}

func (f *frozen) Rollups(_ context.Context, s store.Series, from, to int64, fn func(window, version int64, value []byte) error) error {
	return each(f.rollups[s], from, to, fn)
}

func (f *frozen) Catalog(_ context.Context, _ string, fn func(store.Series) error) error {
	for _, s := range f.series {
		if err := fn(s); err != nil {
			return err
		}
	}
	return nil
}

func (f *frozen) Metrics(ctx context.Context, tenant, experiment, prefix string, fn func(metric string) error) error {
	return storetest.Metrics(ctx, f.Catalog, tenant, experiment, prefix, fn)
}

func (f *frozen) Progress(context.Context, string, string) ([]store.Progress, error) { return nil, nil }

func (f *frozen) Coverage(_ context.Context, _ string, from, to int64, fn func(store.Coverage) error) error {
	for _, c := range f.coverage {
		if c.Window >= from && c.Window < to {
			if err := fn(c); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *frozen) Generations(ctx context.Context, tenant string, from, to int64, fn func(window, generation int64) error) error {
	return f.Coverage(ctx, tenant, from, to, func(c store.Coverage) error { return fn(c.Window, c.Generation) })
}

func (f *frozen) Active(context.Context, string) (store.Active, bool, error) {
	return f.active, f.active.Layer != "", nil
}

// Whatever is sent, the answer is one that the document has, and never a fault of the service.
func FuzzRequests(f *testing.F) {
	// A request may take some 100 us: what is fuzzed is the way of a request, not the summing of a month. So the store is a small part of a
	// world in maps, without a database's background work, which would look like coverage; and little may be asked of it.
	w := newWorld(f, rand.New(rand.NewPCG(3, 3)))
	each := read.DefaultLimits()
	each.Points = 300
	h, tokens := serverOver(f, freeze(f, w.st, w.base+60), Limits{Concurrent: 10, Working: 10, PerSecond: 1e9, Burst: 1e9, Body: 1 << 16}, each)
	f.Add("formula=orders&step=1h", `{"formulas":[{"expr":"clamp(order/visit,0,1)"}],"step":"all"}`, "tandem_x")
	f.Add("formula=orders&from=1970-01-01T00:00:00Z&to=9999-01-01T00:00:00Z&step=1m", `{"formulas":[{"expr":"quantile(order.revenue,0.5)"}],"experiment":"x"}`, "")
	f.Add("filter=device:&groupBy=&param=mp:home", `{"formulas":[{"id":"reach"}],"params":{"mp":"x\") / 0 + beta(\"y"}}`, "\x00")
	f.Fuzz(func(t *testing.T, query, body, token string) {
		r := httptest.NewRequest("GET", "/shop/download.csv", nil)
		r.URL = &url.URL{Path: "/shop/download.csv", RawQuery: query}
		r.Header.Set("Authorization", "Bearer "+tokens["one"])
		post := httptest.NewRequest("POST", "/shop", strings.NewReader(body))
		post.Header.Set("Content-Type", "application/json")
		post.Header.Set("Authorization", "Bearer "+tokens["one"])
		for _, r := range []*http.Request{r, post} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code >= 500 {
				t.Errorf("%d: %s", w.Code, w.Body)
			}
		}
		other := post.Clone(context.Background())
		other.Header["Authorization"] = []string{token}
		other.Body = io.NopCloser(strings.NewReader(body))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, other)
		if w.Code != 401 {
			t.Errorf("token %q: %d", token, w.Code)
		}
	})
}
