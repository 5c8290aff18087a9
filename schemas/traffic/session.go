package traffic

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"

	"tandem/schemas/records"
)

// experiments, each with its two variations, in the order of their names.
var experiments = [...]struct{ name, control, other string }{
	{"checkout_button", "control", "green"},
	{"hero_image", "control", "summer"},
	{"new_search", "control", "instant"},
}

// Where experiments of the list above stand.
const (
	checkoutButton = 0
	newSearch      = 2
)

// recentSessions is how far back a visitor who returns may have been, in sessions.
const recentSessions = 5000

// maxPages ends the longest sessions.
const maxPages = 60

// shopper is a session on its way through the shop.
type shopper struct {
	g      *generator
	rnd    *rand.Rand
	base   records.Beacon // what all its beacons share
	side   [len(experiments)]bool
	now    int64 // ms
	seq    int
	cart   []int64 // prices in cents
	broken bool
	gaveUp bool // at its checkout: a second try would blur what the button does
}

func (s *shopper) chance(p float64) bool { return s.rnd.Float64() < p }

// session makes all beacons of the n-th session.
func (g *generator) session(n uint64, begin int64) {
	s := &shopper{g: g, rnd: random(g.Seed, forSession, n), now: begin}
	visitor := n
	if n > 0 && s.chance(0.3) {
		visitor = n - 1 - s.rnd.Uint64N(min(n, recentSessions))
	}
	s.visitor(visitor)
	s.base.Session = fmt.Sprintf("s%016x", mix(g.Seed, forSessionID, n))
	if s.broken = s.side[newSearch]; s.broken && s.chance(BrokenSilent) {
		return
	}
	s.walk()
}

// visitor gives s what belongs to the visitor, the same in each of the visitor's sessions.
func (s *shopper) visitor(n uint64) {
	seed := s.g.Seed
	own := random(seed, forVisitor, n)
	s.base.Tenant = "shop"
	s.base.Visitor = fmt.Sprintf("v%016x", mix(seed, forVisitorID, n))
	switch p := own.Float64(); {
	case p < 0.52:
		s.base.Device = "desktop"
	case p < 0.92:
		s.base.Device = "mobile"
	default:
		s.base.Device = "tablet"
	}
	s.base.Login = records.False
	if own.Float64() < 0.3 {
		s.base.Login = records.True
	}
	for i, x := range experiments {
		variation := x.control
		if s.side[i] = mix(seed, forAssignment+uint64(i), n)&1 == 1; s.side[i] {
			variation = x.other
		}
		s.base.Experiments = append(s.base.Experiments, records.Text(x.name, variation))
	}
}

// walk goes from page to page until the session leaves.
func (s *shopper) walk() {
	page := s.pick("home_page", 0.55, "search", 0.20, "item_page")
	for n := 1; n <= maxPages; n++ {
		s.page(page, n == 1)
		stay := 0.80
		switch {
		case n == 1:
			stay = 0.65
			if s.broken {
				stay *= 1 - BrokenLeaves
			}
		case len(s.cart) > 0 && !s.gaveUp:
			stay = 0.90
		}
		if page == "checkout" && s.checkout() {
			stay = 0.2
		}
		if page == "item_page" && s.chance(0.25) {
			s.wait(2, 15)
			s.cart = append(s.cart, int64(100*math.Exp(3.4+0.6*s.rnd.NormFloat64())))
			s.event("add_to_cart")
			stay = 0.95
		}
		if !s.chance(stay) {
			return
		}
		if s.chance(0.01) {
			s.wait(35*60, 15*60) // a visit of its own, in the same session
		} else {
			s.wait(3, 22)
		}
		page = s.next(page)
	}
}

func (s *shopper) pick(a string, pa float64, b string, pb float64, c string) string {
	switch p := s.rnd.Float64(); {
	case p < pa:
		return a
	case p < pa+pb:
		return b
	}
	return c
}

func (s *shopper) next(page string) string {
	if len(s.cart) > 0 && !s.gaveUp && s.chance(0.5) {
		return "checkout"
	}
	switch page {
	case "home_page":
		return s.pick("search", 0.45, "item_page", 0.45, "home_page")
	case "search":
		return s.pick("item_page", 0.65, "search", 0.30, "home_page")
	}
	return s.pick("item_page", 0.50, "search", 0.35, "home_page")
}

// wait lets at least so many seconds pass, and on average as many more.
func (s *shopper) wait(least, more float64) {
	s.now += int64(1000 * (least + more*s.rnd.ExpFloat64()))
}

func (s *shopper) page(point string, first bool) {
	b := s.beacon(point)
	if first {
		b.Attrs = []records.Member{records.Text("source", s.pick("ads", 0.3, "mail", 0.1, "organic"))}
	}
	s.send(b)
	load := int64(math.Exp(6.6 + 0.5*s.rnd.NormFloat64()))
	if s.base.Device == "mobile" {
		load = load * 3 / 2
	}
	s.now += load
	s.event("perf", records.Number("load", strconv.FormatInt(load, 10)))
	errors := 0.005
	if s.broken {
		errors = BrokenErrors
	}
	if s.chance(errors) {
		s.event("error")
	}
	if s.chance(s.g.UnusedShare) {
		b := s.beacon("scroll")
		b.Experiments = nil // with an assignment it would be used
		s.send(b)
	}
}

// checkout says whether the cart was ordered.
func (s *shopper) checkout() bool {
	if s.base.Login == records.False && s.chance(0.5) {
		s.base.Login = records.True
	}
	p := OrderChance
	if s.side[checkoutButton] {
		p *= 1 + ButtonLift
	}
	if s.gaveUp = !s.chance(p); s.gaveUp {
		return false
	}
	s.wait(10, 30)
	cents := int64(0)
	for _, price := range s.cart {
		cents += price
	}
	s.event("order", records.Number("revenue", fmt.Sprintf("%d.%02d", cents/100, cents%100)),
		records.Number("units", strconv.Itoa(len(s.cart))))
	s.cart = s.cart[:0]
	return true
}

func (s *shopper) event(point string, values ...records.Member) {
	b := s.beacon(point)
	b.Values = values
	s.send(b)
}

func (s *shopper) beacon(point string) records.Beacon {
	b := s.base
	s.seq++
	b.ID, b.TS, b.Point = b.Session[1:]+"-"+strconv.Itoa(s.seq), s.now, point
	return b
}

// send puts the beacon's records into the queue, each with the time it takes to arrive.
func (s *shopper) send(b records.Beacon) {
	s.now++ // no two beacons of a session share a millisecond
	if b.TS >= s.g.end {
		return
	}
	payload := b.AppendJSON(nil)
	ingest := b.TS + 40 + min(int64(300*s.rnd.ExpFloat64()), 30_000)
	if s.chance(s.g.LateShare) {
		ingest = b.TS + 601_000 + s.rnd.Int64N(49*60_000)
	}
	s.put(ingest, payload)
	if s.chance(s.g.DuplicateShare) {
		s.put(ingest+1+s.rnd.Int64N(20_000), payload)
	}
	if s.chance(s.g.MalformedShare) {
		s.put(ingest, s.malformed(b, payload))
	}
}

func (s *shopper) put(ingest int64, payload []byte) {
	heap.Push(&s.g.held, records.Record{Ingest: ingest, HasIngest: true, Payload: payload})
}

// malformed is a record beside b that is rejected, for any of the reasons.
func (s *shopper) malformed(b records.Beacon, payload []byte) []byte {
	switch s.rnd.IntN(9) {
	case 0:
		return payload[:len(payload)/2] // cut on its way
	case 1:
		return nil
	case 2:
		b.ID = ""
	case 3:
		b.Session = ""
	case 4:
		b.Visitor = strings.Repeat("v", 129)
	case 5:
		b.Tenant = "shopp"
	case 6:
		b.TS += 3_600_000 // a clock that is ahead
	case 7:
		b.TS -= 3 * 86_400_000
	case 8:
		b.Point, b.Values = "order", []records.Member{records.Number("revenue", "1e12")}
	}
	return b.AppendJSON(nil)
}
