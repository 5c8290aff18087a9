package session

import (
	"math/bits"

	"tandem/core/metric"
	"tandem/core/tenant"
)

// burst is what the beacons of a session in one minute and tag set add to the pages of visits, summed up for the scopes that get the
// same of each: the site's, and as a rule most of the session's others. It goes to them at once, as one contribution.
type burst struct {
	minute  *metric.Minute
	tags    uint32
	scopes  together
	to      metric.To
	mask    uint64 // of the cells that were added to
	cells   [metric.MaxCells]int64
	visitor uint64 // to be shown to all of them, 0: none
	deltas  []int64
}

// together are a session's scopes that get what the site gets: a bit for each of its first 64 marks, in their order, and of these one
// for each whose fm scope gets it too.
type together struct{ assigned, fm uint64 }

// mostTogether marks may be of a burst; the scopes of others get theirs one by one.
const mostTogether = 64

// open has the burst be of these scopes and the beacon's minute and tag set, and ends the one before if it was of others.
func (f *Folder) open(minute *metric.Minute, e *Event, s *State, scopes together) {
	b := &f.burst
	if b.minute == minute && b.tags == e.Tags && b.scopes == scopes && (b.visitor == 0 || b.visitor == e.Visitor) {
		return
	}
	f.endBurst()
	b.minute, b.tags, b.scopes = minute, e.Tags, scopes
	b.to = metric.To{Scopes: append(b.to.Scopes[:0], 0)}
	for left := scopes.assigned; left != 0; left &= left - 1 {
		i := bits.TrailingZeros64(left)
		m := &s.Marks[i]
		b.to.Add(metric.NewKey(tenant.AssignedScope(f.Chain.Exps[m.Inst].X), 0, m.Variation, 0), scopes.fm>>i&1 != 0)
	}
}

// endBurst brings it to its scopes, whose keys it has. Where the session's marks change it must come before the next open, which would
// take other marks for the same.
func (f *Folder) endBurst() {
	b := &f.burst
	if b.minute == nil {
		return
	}
	switch page := metric.NewKey(0, tenant.GroupVisit, 0, b.tags); {
	case b.mask != 0:
		b.deltas = b.deltas[:0]
		for left := b.mask; left != 0; left &= left - 1 {
			c := bits.TrailingZeros64(left)
			b.deltas = append(b.deltas, b.cells[c])
			b.cells[c] = 0
		}
		b.minute.Post(b.to, page, len(f.Chain.Groups[tenant.GroupVisit].Names), b.mask, b.deltas, b.visitor)
	case b.visitor != 0:
		b.minute.Seen(b.to, metric.NewKey(0, tenant.GroupSeen, 0, b.tags), b.visitor)
	}
	b.minute, b.mask, b.visitor = nil, 0, 0
}
