package session

import (
	"tandem/core/beacon"
	"tandem/core/tenant"
)

// Admit decides about a beacon as Read does, without reading all of it: what dispatch needs. Used is wider here: any
// assignment keeps a beacon, configured or not, since a later revision may measure it.
func (r *Reader) Admit(chain *tenant.Chain, b *beacon.Beacon, ingest int64) Verdict {
	v := Check(chain, b, ingest)
	if v.Reason != beacon.None {
		return v
	}
	if b.HasPoint {
		if p := v.Rev.PointNamed(b.Point); p != nil {
			v.Used = true
			var e Event
			if !r.values(p, b, &e) {
				v.Reason = beacon.BadValue
				return v
			}
		}
	}
	for i := range b.Experiments {
		v.Used = v.Used || b.Experiments[i].Kind != beacon.Nil
	}
	return v
}
