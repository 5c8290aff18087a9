package evidence

import (
	"cmp"
	"math"
	"slices"
)

// EBH says which hypotheses stand when the false ones among those that stand shall be a share of q at most: those with the
// k greatest e-values, for the largest k of which the k-th is at least m/(k q). It holds however the tests depend on each
// other (Wang, Ramdas, arXiv 2009.02824).
func EBH(logE []float64, q float64) []bool {
	order := make([]int, len(logE))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(logE[b], logE[a]) })
	k := 0
	for i, at := range order {
		if logE[at] >= math.Log(float64(len(logE))/(float64(i+1)*q)) {
			k = i + 1
		}
	}
	stands := make([]bool, len(logE))
	for _, at := range order[:k] {
		stands[at] = true
	}
	return stands
}

// Of the break alarm: the weight of the newest minute, and the limit at which a false alarm comes once in ten million
// minutes, from the run length of the chain (Brook, Evans 1972).
const (
	breakWeight = 0.1
	breakLimit  = 5.30
)

// Break watches for a sudden change between a treatment and the control: an exponentially weighted mean of each minute's
// deviation of the treatment's share of events. Season and bursts hit both, and cancel. The zero value begins at rest.
type Break struct {
	Level float64
	// Alarm says that the level is beyond the limit after the last minute.
	Alarm bool
}

// Add takes the events of the next closed minute; one without events changes nothing. share is the treatment's among both.
func (b *Break) Add(treatment, control, share float64) {
	n := treatment + control
	if n == 0 {
		return
	}
	z := (treatment - share*n) / math.Sqrt(share*(1-share)*n)
	b.Level = (1-breakWeight)*b.Level + breakWeight*z
	b.Alarm = math.Abs(b.Level) > breakLimit*math.Sqrt(breakWeight/(2-breakWeight))
}

// Burn-in: before so many events in each variation an interval is not shown, since it need not hold yet.
const (
	MinEvents = 20  // of a proportion or a count
	MinOrders = 300 // of capped amounts, whose tails are heavy
)
