// Package tenant is what a tenant configures: one revision as it is written (Config), its conditions, and the
// chain of revisions compiled to dense ids (Chain), which is all that parsing and folding ever look at (SPEC 10).
package tenant

import (
	"math"
	"reflect"
	"slices"
)

// Open ends of an experiment's interval when the config names none, in ms since the epoch.
const (
	NoStart int64 = math.MinInt64
	NoEnd   int64 = math.MaxInt64
)

// Config is one revision of a tenant's config (SPEC 10), checked: every field holds a value that the page allows.
// Times are ms since the epoch, durations ms.
type Config struct {
	Tenant  string
	HasFrom bool  // false: in force from the beginning of time
	From    int64 // full minute; meaningful only with HasFrom
	// A splice is in force until To, a full minute, and then what was in force before it was laid over that.
	HasTo bool  `json:",omitempty"` // digests of revisions are made from the JSON
	To    int64 `json:",omitempty"`

	Retention, VisitGap, SessionTTL, Lateness, MaxAge, MaxSkew int64
	MaxEventsPerMinute                                         int

	Tags        []Tag        // by name
	Points      []Point      // in the order of the file
	Cross       []Pair       // in the order of the file
	Experiments []Experiment // in the order of the file
}

// Equal says whether two configs say the same.
func (c *Config) Equal(o *Config) bool { return reflect.DeepEqual(c, o) }

// says is whether two configs are the same but for the time that they are in force.
func (c *Config) says(o *Config) bool {
	a, b := *c, *o
	a.HasFrom, a.From, a.HasTo, a.To = false, 0, false, 0
	b.HasFrom, b.From, b.HasTo, b.To = false, 0, false, 0
	return a.Equal(&b)
}

// Tag is a tag and its allowed values, in the order of the file. `none` and `other` are implied.
type Tag struct {
	Name   string
	Values []string
}

// Point is a measurement point.
type Point struct {
	Name   string
	Page   bool // kind: page
	Stats  bool
	Values []Value // in the order of the file
}

// Value is a measured value of a point.
type Value struct {
	Name      string
	Decimals  int   // 0 to 9
	Cap       int64 // scaled by 10^Decimals, 1 to 4,000,000; 0: none
	Histogram bool
}

// Pair is an entry of `cross`: each side is a point's name, or `point.value` of a value that declares a cap.
type Pair struct{ A, B string }

// Experiment is an experiment. A start or end that the config leaves out is NoStart or NoEnd.
type Experiment struct {
	Name       string
	Variations []string
	Control    string
	Weights    []float64 // as many as variations; equal unless given
	Start, End int64     // full minutes, Start < End
	Qualify    []string  // conditions as written, checked by ParseCondition; empty: none
}

// SameSplit says whether two lists of weights mean the same shares: [1, 1], which stands for none, and [50, 50] do.
func SameSplit(a, b []float64) bool {
	sum := func(w []float64) (sum float64) {
		for _, v := range w {
			sum += v
		}
		return sum
	}
	of, to := sum(a), sum(b)
	return slices.EqualFunc(a, b, func(v, w float64) bool { return math.Abs(v/of-w/to) < 1e-12 })
}
