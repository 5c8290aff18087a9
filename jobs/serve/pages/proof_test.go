package pages

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"tandem/schemas/row"
)

const provedConfig = `tenant: shop
tags:
  device: [desktop, mobile]
points:
  order:
    stats: true
    values:
      revenue: {decimals: 2, cap: 5000}
experiments:
  x:
    variations: [control, red]
    weights: %s
`

const provedFormulas = `version: 1
tenant: shop
formulas:
  revenue: {title: Revenue, expr: order.revenue.cap / visit.beta, good: up, role: guardrail}
  conversion: {title: Conversion, expr: order.beta / visit.beta, good: up, role: primary}
  orders: {title: Orders, expr: order}
`

// proved is a service over a store in which experiment x has, in its second phase, the sums of a vector of the statistics, and
// before it something else.
const (
	provedBegin = 30_000 // minute
	provedPhase = 30_045 // of the second revision, in the middle of a bucket
	provedEnd   = 30_180
)

func proved(t *testing.T) http.Handler {
	t.Helper()
	f := fill(t, revision{text: fmt.Sprintf(provedConfig, "[1, 3]")}, revision{fmt.Sprintf(provedConfig, "[1, 1]"), provedPhase})
	put := func(minute int64, sums map[string][2]int64) { // of control and red, half of it on either device
		sums["order.hit"], sums["order.tot"] = sums["order.beta"], sums["order"] // the same under the tags of the sessions
		for name, v := range sums {
			var cells []row.Cell
			for i, variation := range []string{"control", "red"} {
				for d, device := range []string{"desktop", "mobile"} {
					if n := (v[i] + int64(d)) / 2; n != 0 {
						cells = append(cells, row.Cell{Variation: variation, Tags: "device=" + device, Value: n})
					}
				}
			}
			f.put(stream, "x", "fm."+name, minute, cells...)
		}
	}
	put(provedPhase-1, map[string][2]int64{"visit.beta": {4000, 900}, "order.beta": {900, 10}, "order": {900, 10}, "order.revenue.cap": {900_000, 1000}, "order.revenue.cap.sq": {4e9, 1e6}})
	f.visit(provedBegin)
	// TestSequentialTTest of the vectors, in two minutes.
	put(provedPhase, map[string][2]int64{"visit.beta": {1000, 2000}, "order.beta": {400, 600}, "order": {400, 600}, "order.revenue.cap": {39_687, 42_270}, "order.revenue.cap.sq": {123_779_766, 346_982_900}})
	put(provedEnd-1, map[string][2]int64{"visit.beta": {2000, 1461}, "order.beta": {400, 300}, "order": {400, 300}, "order.revenue.cap": {100_000, 200_000}, "order.revenue.cap.sq": {400_000_000, 1_000_000_000}})
	put(provedEnd+3, map[string][2]int64{"visit.beta": {500, 500}, "order.beta": {500, 0}}) // of a minute that is not closed
	return f.serve(provedFormulas, provedEnd, provedEnd+10)
}

type proofs struct {
	Evidence *struct {
		From, To   string
		Confidence float64
	}
	Series []seriesProof
}

type seriesProof struct {
	Formula, Variation string
	Tags               map[string]string
	Proof              *struct {
		Sessions, ControlSessions float64
		State, Why, From          string
		Difference, Relative      struct{ Value, Low, High *float64 }
		P                         *float64
		Capped, Failing           bool
	}
}

func askProofs(t *testing.T, h http.Handler, more string) (out proofs) {
	t.Helper()
	from, to := time.Unix((provedEnd-10)*60, 0).UTC().Format(time.RFC3339), time.Unix((provedEnd+10)*60, 0).UTC().Format(time.RFC3339)
	if more == "" {
		more = fmt.Sprintf(`,"from":%q,"to":%q,"step":"7m"`, from, to)
	}
	return askJSON(t, h, `{"formulas":[{"id":"revenue"},{"id":"conversion"},{"id":"orders"}],"experiment":"x","compare":true`+more+`}`)
}

func askJSON(t *testing.T, h http.Handler, body string) (out proofs) {
	t.Helper()
	r := httptest.NewRequest("POST", "/shop", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// The API proves what the page does, over closed minutes of the last phase, and both are what other systems say of these sums.
func TestProofs(t *testing.T) {
	h := proved(t)
	out := askProofs(t, h, "")
	if e := out.Evidence; e == nil || e.From != "1970-01-21T20:45:00Z" || e.To != "1970-01-21T23:00:00Z" || e.Confidence != 0.95 {
		t.Fatalf("%+v", e)
	}
	var page experimentData
	get(t, h, "/shop/page/experiment/x", 200, &page)
	proofs := 0
	for _, s := range out.Series {
		if s.Variation == "control" || s.Formula == "orders" {
			if s.Proof != nil {
				t.Errorf("%s of %s: %+v", s.Formula, s.Variation, s.Proof)
			}
			continue
		}
		p := s.Proof
		if p == nil || p.Sessions != 3461 || p.ControlSessions != 3000 || p.State == "waiting" || p.Relative.Low == nil {
			t.Fatalf("%s: %+v", s.Formula, p)
		}
		proofs++
		for _, m := range page.Metrics {
			if m.ID != s.Formula {
				continue
			}
			for i, pair := range [][2]*float64{{p.Relative.Value, m.Rows[0].Diff}, {p.Relative.Low, m.Rows[0].Low}, {p.Relative.High, m.Rows[0].High}, {p.P, m.Rows[0].P}} {
				if pair[0] == nil || pair[1] == nil || math.Abs(*pair[0]-*pair[1]) > 1e-6*math.Abs(*pair[0])+1e-12 {
					t.Errorf("%s, %d: the API says %v, the page %v", s.Formula, i, *pair[0], *pair[1])
				}
			}
			if p.Failing != m.Rows[0].Failing || (p.State == "signal") != (m.Rows[0].State == "confirmed" || m.Rows[0].State == "signal") {
				t.Errorf("%s: %+v, the page %+v", s.Formula, p, m.Rows[0])
			}
		}
		if s.Formula != "revenue" {
			continue
		}
		// From the vector's estimate and error, and the reference's formula: 100,000 sessions planned.
		const estimate, se, n, nStar, alpha = 0.50336, 0.33341, 6461.0, 100_000.0, 0.05
		l := -2 * math.Log(alpha)
		rho2 := (l + math.Log(1+l)) / nStar
		k := n*rho2 + 1
		half := se * math.Sqrt(n) * math.Sqrt(2*k*math.Log(math.Sqrt(k)/alpha)) / (n * math.Sqrt(rho2))
		want := min(1, math.Sqrt(k)/math.Exp(rho2*n*(estimate/se)*(estimate/se)/(2*k)))
		if math.Abs(*p.Relative.Value-estimate) > 5e-6 || math.Abs(*p.Relative.Low-(estimate-half)) > 1e-4 || math.Abs(*p.Relative.High-(estimate+half)) > 1e-4 ||
			math.Abs(*p.P-want) > 1e-4 || math.Abs(*p.Difference.Value-0.234376667) > 1e-6 || !p.Capped {
			t.Errorf("%v in [%v, %v], p %v, difference %v; want %v +- %v, p %v", *p.Relative.Value, *p.Relative.Low, *p.Relative.High, *p.P, *p.Difference.Value, estimate, half, want)
		}
	}
	if proofs != 2 {
		t.Errorf("%d proofs", proofs)
	}
}

// By a tag each group is compared with the control's of the same tag; a range that ends earlier proves less; before the experiment
// there is nothing.
func TestProofsOfParts(t *testing.T) {
	h := proved(t)
	sessions := 0.
	for _, s := range askProofs(t, h, `,"groupBy":["device"]`).Series {
		if s.Formula == "conversion" && s.Variation == "red" {
			sessions += s.Proof.Sessions
			if c := s.Proof.ControlSessions; c != 1500 {
				t.Errorf("%v: %v sessions of the control", s.Tags, c)
			}
		}
	}
	if sessions != 3461 {
		t.Errorf("%v sessions in all groups", sessions)
	}
	at := func(minute int64) string {
		return fmt.Sprintf(`,"from":"1970-01-20T00:00:00Z","step":"all","to":%q`, time.Unix(minute*60, 0).UTC().Format(time.RFC3339))
	}
	for _, s := range askProofs(t, h, at(provedEnd-5)).Series {
		if s.Formula == "revenue" && s.Variation == "red" && (s.Proof.Sessions != 2000 || s.Proof.State == "waiting") {
			t.Errorf("%+v", s.Proof)
		}
	}
	// Of the first phase, with its sums, and with another split.
	out := askProofs(t, h, at(provedPhase))
	for _, s := range out.Series {
		if s.Formula == "conversion" && s.Variation == "red" && (s.Proof.Sessions != 900 || s.Proof.State != "waiting" || s.Proof.Why == "" || s.Proof.P != nil) {
			t.Errorf("%+v", s.Proof)
		}
	}
	if out := askProofs(t, h, at(provedBegin-100)); out.Evidence != nil {
		t.Errorf("before anything: %+v", out.Evidence)
	}
}
