package batch

import (
	"context"
	"fmt"

	"tandem/core/view"
	"tandem/schemas/store"
)

// ViewStore is the part of the metric store that says which layers stand.
type ViewStore interface {
	Active(ctx context.Context, tenant string) (store.Active, bool, error)
	Generations(ctx context.Context, tenant string, from, to int64, fn func(window, generation int64) error) error
}

// View reads which layer stands for which minute of a tenant (SPEC 9): what coverage names, else the active stream's.
func View(ctx context.Context, st ViewStore, name string) (*view.View, error) {
	active, _, err := st.Active(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("active layer of %s: %w", name, err)
	}
	var windows []view.Window
	err = st.Generations(ctx, name, 0, store.MaxMinute+1, func(window, generation int64) error {
		windows = append(windows, view.Window{From: window, To: window + WindowMS/60000, Layer: Layer(generation)})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("coverage of %s: %w", name, err)
	}
	return view.New(active.Layer, windows), nil
}
