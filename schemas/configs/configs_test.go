package configs

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/core/tenant"
	"tandem/schemas/blob"
)

// clocked is a storage with a clock of its own.
type clocked struct {
	blob.Store
	now time.Time
}

func (c clocked) Created(name string) (time.Time, error) {
	_, err := c.Store.Created(name)
	return c.now, err
}

var noon = time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC)

func file(text string) tenant.File {
	return tenant.File{Name: "shop.yaml", Data: []byte("tenant: shop\n" + text)}
}

func begun(t *testing.T) blob.Store {
	t.Helper()
	b := blob.NewMem()
	for range 2 { // again, which changes nothing
		if err := Begin(b, "shop", []tenant.File{file("from: 2026-01-02T00:00:00Z\npoints: {home: {}, cart: {}}\n"), file("points: {home: {}}\n")}); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func points(chain *tenant.Chain, at string) string {
	ts, err := time.Parse(time.RFC3339, at)
	if err != nil {
		panic(err)
	}
	var names []string
	for _, p := range chain.At(ts.UnixMilli()).Config.Points {
		names = append(names, p.Name)
	}
	return strings.Join(names, " ")
}

func TestBegin(t *testing.T) {
	b := begun(t)
	if c, err := Read(b, "other"); err != nil || !c.Empty() {
		t.Errorf("a tenant without a chain has %+v, %v", c, err)
	}
	c, err := Read(b, "shop")
	if err != nil || len(c.Objects) != 1 || len(c.Configs()) != 2 || c.Configs()[0].HasFrom {
		t.Fatalf("%+v, %v", c, err)
	}
	splice := "from: 2026-01-03T00:00:00Z\nto: 2026-01-04T00:00:00Z\npoints: {promo: {}}\n"
	for range 2 { // a command that was killed is given again
		if c, err = Append(clocked{b, noon}, "shop", file(splice), noon); err != nil || len(c.Objects) != 2 {
			t.Fatalf("%+v, %v", c, err)
		}
	}
}

func TestClock(t *testing.T) {
	revision := "from: 2026-01-05T12:30:00Z\npoints: {order: {}}\n"
	splice := "from: 2026-01-03T00:00:00Z\nto: 2026-01-05T11:59:00Z\npoints: {promo: {}}\n"
	for _, c := range []struct {
		name, text string
		now        time.Time // whoever appends
		storage    time.Time
		refused    bool
		void       bool
	}{
		{"in time", revision, noon, noon, false, false},
		{"a minute and max_skew ahead", revision, noon.Add(24 * time.Minute), noon.Add(24 * time.Minute), false, false},
		{"a second less", revision, noon.Add(24*time.Minute + time.Second), noon, true, false},
		{"the last moment of the storage", revision, noon, noon.Add(24*time.Minute + 30*time.Second), false, false},
		{"a ms later", revision, noon, noon.Add(24*time.Minute + 30*time.Second + time.Millisecond), false, true},
		{"a splice", splice, noon, noon, false, false},
		{"a splice that has just ended", splice, noon.Add(-time.Minute), noon.Add(-time.Minute), false, false},
		{"a splice of what is to come", splice, noon.Add(-61 * time.Second), noon, true, false},
		{"the same by the storage's clock", splice, noon, noon.Add(-61 * time.Second), false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := begun(t)
			chain, err := Append(clocked{b, c.storage}, "shop", file(c.text), c.now)
			switch {
			case c.refused:
				if !errors.Is(err, ErrRefused) {
					t.Errorf("error %v", err)
				}
				return
			case c.void:
				if err == nil || !strings.Contains(err.Error(), "is void") {
					t.Errorf("error %v", err)
				}
			case err != nil || len(chain.Objects) != 2:
				t.Fatal(chain, err)
			}
			// Whatever times a copy has, it tells the same.
			for _, later := range []time.Time{noon.Add(-time.Hour), noon.Add(100 * time.Hour)} {
				read, err := Read(clocked{b, later}, "shop")
				if err != nil || (read.Objects[1].Void != "") != c.void || !read.Objects[1].Created.Equal(c.storage) {
					t.Errorf("read later: %+v, %v", read.Objects, err)
				}
				if n := 3; c.void && len(read.Configs()) != n-1 || !c.void && len(read.Configs()) != n {
					t.Errorf("%d configs", len(read.Configs()))
				}
			}
		})
	}
}

func TestCompile(t *testing.T) {
	b := clocked{begun(t), noon}
	for _, text := range []string{
		"from: 2026-01-03T00:00:00Z\nto: 2026-01-04T00:00:00Z\npoints: {promo: {}}\n",
		"from: 2026-01-06T00:00:00Z\npoints: {order: {}}\n",
		"from: 2026-01-03T06:00:00Z\nto: 2026-01-03T07:00:00Z\npoints: {home: {}, cart: {}}\n",
	} {
		if _, err := Append(b, "shop", file(text), noon); err != nil {
			t.Fatal(err)
		}
	}
	c, err := Read(b, "shop")
	if err != nil {
		t.Fatal(err)
	}
	live, spliced, err := c.Compile()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []struct{ at, live, spliced string }{
		{"2026-01-01T23:59:59Z", "home", "home"},
		{"2026-01-02T23:59:59Z", "home cart", "home cart"},
		{"2026-01-03T00:00:00Z", "home cart", "promo"},
		{"2026-01-03T06:00:00Z", "home cart", "home cart"},
		{"2026-01-03T07:00:00Z", "home cart", "promo"},
		{"2026-01-04T00:00:00Z", "home cart", "home cart"},
		{"2026-01-06T00:00:00Z", "order", "order"},
	} {
		if l, s := points(live, p.at), points(spliced, p.at); l != p.live || s != p.spliced {
			t.Errorf("at %s: %q and %q, want %q and %q", p.at, l, s, p.live, p.spliced)
		}
	}
}

func TestRefused(t *testing.T) {
	b := begun(t)
	if _, err := Read(b, "shop"); err != nil {
		t.Fatal(err)
	}
	before, _ := b.List("")
	for name, text := range map[string]string{
		"without from":               "points: {home: {}}\n",
		"before the first":           "from: 2026-01-01T00:00:00Z\npoints: {home: {}}\n",
		"decimals that change":       "from: 2026-02-01T00:00:00Z\ntags: {a: [x], a: [y]}\n",
		"to before from":             "from: 2026-01-03T00:00:00Z\nto: 2026-01-03T00:00:00Z\npoints: {home: {}}\n",
		"to without from":            "to: 2026-01-03T00:00:00Z\npoints: {home: {}}\n",
		"of another tenant":          "",
		"a splice that is too young": "from: 2026-01-03T00:00:00Z\nto: 2026-03-03T00:00:00Z\npoints: {home: {}}\n",
	} {
		f := file(text)
		if text == "" {
			f.Data = []byte("tenant: other\nfrom: 2026-02-01T00:00:00Z\n")
		}
		if _, err := Append(clocked{b, noon}, "shop", f, noon); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
	if _, err := Append(b, "other", tenant.File{Name: "o.yaml", Data: []byte("tenant: other\nfrom: 2026-02-01T00:00:00Z\n")}, noon); err == nil {
		t.Error("a chain that has not begun takes a revision")
	}
	if after, _ := b.List(""); len(after) != len(before) {
		t.Errorf("objects are left: %v, before %v", after, before)
	}
}

// Many append at once: each that is taken is in the chain, in an order that all agree on.
func TestRace(t *testing.T) {
	b := clocked{begun(t), noon}
	var wg sync.WaitGroup
	taken := make([]bool, 20)
	for i := range taken {
		wg.Go(func() {
			_, err := Append(b, "shop", file(fmt.Sprintf("from: 2026-01-06T00:%02d:00Z\npoints: {p%d: {}}\n", i, i)), noon)
			if err != nil && !errors.Is(err, ErrRefused) {
				t.Error(err)
			}
			taken[i] = err == nil
		})
	}
	wg.Wait()
	c, err := Read(b, "shop")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for i, ok := range taken {
		in := slices.ContainsFunc(c.Configs(), func(cfg *tenant.Config) bool { return cfg.Points[0].Name == fmt.Sprint("p", i) })
		if in != ok {
			t.Errorf("%d: taken %t, in the chain %t", i, ok, in)
		}
		if ok {
			n++
		}
	}
	if n == 0 || len(c.Objects) != n+1 {
		t.Errorf("%d taken, %d objects", n, len(c.Objects))
	}
}

func TestChangedObject(t *testing.T) {
	b := blob.NewMem()
	if err := Begin(b, "shop", []tenant.File{file("points: {home: {}}\n")}); err != nil {
		t.Fatal(err)
	}
	if _, err := Append(clocked{b, noon}, "shop", file("from: 2026-01-06T00:00:00Z\npoints: {home: {}}\n"), noon); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Delete(Name("shop", 2)), b.Create(Name("shop", 2), file("from: 2026-01-07T00:00:00Z\npoints: {home: {}}\n").Data)); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(b, "shop"); err == nil || !strings.Contains(err.Error(), "000002.yaml") {
		t.Errorf("error %v", err)
	}
}

// A shop that changes its experiments every day has a thousand configs in a few years, and each process reads them when it begins.
func TestReadingIsLinear(t *testing.T) {
	allocations := func(n int) float64 {
		b := blob.NewMem()
		for i := range n {
			text := "tenant: shop\npoints: {home: {values: {a: {}, b: {decimals: 2}}}}\n"
			if i > 0 {
				text += fmt.Sprintf("from: %s\n", noon.Add(time.Duration(i)*24*time.Hour).Format(time.RFC3339))
			}
			if err := b.Create(Name("shop", i+1), []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		stored := clocked{b, noon.Add(-24 * time.Hour)}
		return testing.AllocsPerRun(3, func() {
			if c, err := Read(stored, "shop"); err != nil || len(c.Configs()) != n {
				t.Fatal(err)
			}
		})
	}
	if few, many := allocations(50), allocations(200); many > 6*few {
		t.Errorf("200 configs take %.0f allocations, 50 take %.0f", many, few)
	}
}
