package read

import (
	"context"
	"fmt"

	"tandem/core/view"
)

// BatchAlone is what the batch has covered, as if there were no stream. What it has not is not known, and no zero: a point that has
// any of it, be it before its own step, has no value.
func (x *Resolved) BatchAlone() *Resolved {
	alone := *x
	alone.View, alone.CompleteThrough, alone.begin, alone.uncovered = &view.View{Windows: x.View.Windows}, 0, 0, Unknown
	if w := x.View.Windows; len(w) > 0 {
		alone.begin, alone.CompleteThrough = w[0].From, w[len(w)-1].To
	}
	return &alone
}

// StreamAlone is what the active stream has closed, as if the batch had covered nothing.
func (x *Resolved) StreamAlone(ctx context.Context) (*Resolved, error) {
	alone := *x
	alone.View, alone.CompleteThrough, alone.begin = &view.View{Active: x.View.Active}, x.closed, 0
	if x.closed > 0 {
		var err error
		if alone.begin, err = alone.first(ctx, x.closed, nil); err != nil {
			return nil, fmt.Errorf("begin of %s of %s: %w", x.View.Active, x.Chain.Tenant, err)
		}
	}
	return &alone, nil
}
