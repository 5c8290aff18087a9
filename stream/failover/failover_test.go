package failover

import (
	"context"
	"errors"
	"testing"
	"time"

	"tandem/schemas/store"
	"tandem/schemas/store/pebblestore"
)

const tenant = "shop"

func memory(t *testing.T) *pebblestore.Store {
	t.Helper()
	st, err := pebblestore.Open("", pebblestore.Options{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

func tell(t *testing.T, st Store, layer string, closed ...int64) {
	t.Helper()
	for p, c := range closed {
		if c < 0 {
			continue
		}
		if err := st.PutProgress(context.Background(), store.Progress{Layer: layer, Tenant: tenant, Partition: int32(p), ClosedBefore: c}); err != nil {
			t.Fatal(err)
		}
	}
}

func activate(t *testing.T, st Store, layer string, seq int64) {
	t.Helper()
	if err := st.PutActive(context.Background(), store.Active{Tenant: tenant, Layer: layer, Seq: seq}); err != nil {
		t.Fatal(err)
	}
}

func TestLook(t *testing.T) {
	for _, c := range []struct {
		name          string
		written, held []int64
		want          Layer
	}{
		{"nothing", nil, nil, Layer{}},
		{"one of two", []int64{7}, nil, Layer{Heard: 1}},
		{"the least", []int64{7, 5}, nil, Layer{Heard: 2, Complete: 5, Written: 5}},
		{"held further", []int64{7, 5}, []int64{9, 8}, Layer{Heard: 2, Complete: 8, Written: 5}},
		{"held only", nil, []int64{9, 8}, Layer{Heard: 2, Complete: 8}},
		{"held long ago", []int64{7, 5}, []int64{3, 3}, Layer{Heard: 2, Complete: 5, Written: 5}},
		{"one partition held, one written", []int64{7}, []int64{-1, 6}, Layer{Heard: 2, Complete: 6}},
		{"a partition too many", []int64{7, 5, 1}, nil, Layer{Heard: 2, Complete: 5, Written: 5}},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := memory(t)
			tell(t, st, two, c.written...)
			tell(t, st, Held(two), c.held...)
			tell(t, st, one, 1, 1)
			c.want.Name = two
			if got, err := Look(context.Background(), st, tenant, two, 2); err != nil || got != c.want {
				t.Errorf("%+v, %v, want %+v", got, err, c.want)
			}
		})
	}
}

func change() Change {
	return Change{Tenant: tenant, Layer: two, Partitions: 2, Lag: 5, Wait: 50 * time.Millisecond, Now: func() time.Time { return time.UnixMilli(1000) }}
}

// stage2 is a store behind which stage 2 of layer two does as it is asked: written is what it then has written.
type stage2 struct {
	*pebblestore.Store
	t       *testing.T
	written []int64
	answers int // partitions that do
}

func (s *stage2) PutProgress(ctx context.Context, p store.Progress) error {
	if err := s.Store.PutProgress(ctx, p); err != nil || p.Layer != Asked(two) {
		return err
	}
	if a, _, _ := s.Active(ctx, tenant); a.Layer == two {
		s.t.Error("readers were sent to the layer before it was asked to write")
	}
	tell(s.t, s.Store, two, s.written...)
	for i := range int32(s.answers) {
		if err := s.Store.PutProgress(ctx, store.Progress{Layer: Written(two), Tenant: tenant, Partition: i, Version: p.Version}); err != nil {
			return err
		}
	}
	return nil
}

func TestPromote(t *testing.T) {
	for _, c := range []struct {
		name    string
		held    []int64 // of layer two; layer one is complete before 100
		written []int64
		answers int
		force   bool
		err     error
	}{
		{name: "a standby", held: []int64{100, 101}, written: []int64{100, 101}, answers: 2},
		{name: "as far behind as it may be", held: []int64{95, 100}, written: []int64{95, 100}, answers: 2},
		{name: "a minute too far behind", held: []int64{94, 100}, written: []int64{94, 100}, answers: 2, err: ErrBehind},
		{name: "a minute too far behind, by force", held: []int64{94, 100}, written: []int64{94, 100}, answers: 2, force: true},
		{name: "a partition was never heard", held: []int64{100}, written: []int64{100}, answers: 2, err: ErrBehind},
		{name: "it held less than it said", held: []int64{100, 100}, written: []int64{94, 100}, answers: 2, err: ErrBehind},
		{name: "a partition is silent", held: []int64{100, 100}, written: []int64{100, 100}, answers: 1, err: ErrSilent},
		{name: "a partition is silent, by force", held: []int64{100, 100}, written: []int64{100, 100}, answers: 1, force: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := &stage2{memory(t), t, c.written, c.answers}
			tell(t, st, one, 100, 100)
			tell(t, st, Held(two), c.held...)
			activate(t, st, one, 7)
			ask := change()
			ask.Force = c.force
			before, after, err := Promote(context.Background(), st, ask)
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			want := store.Active{Tenant: tenant, Layer: two, Seq: 1000}
			if c.err != nil {
				want = before
			}
			is, _, _ := st.Active(context.Background(), tenant)
			if before != (store.Active{Tenant: tenant, Layer: one, Seq: 7}) || after != want || is != want {
				t.Errorf("before %+v, after %+v, in the store %+v", before, after, is)
			}
		})
	}
}

// TestPromoteTheActiveOne asks nothing of anybody.
func TestPromoteTheActiveOne(t *testing.T) {
	st := memory(t)
	activate(t, st, two, 7)
	before, after, err := Promote(context.Background(), st, change())
	if asked, _ := st.Progress(context.Background(), Asked(two), tenant); err != nil || before != after || after.Seq != 7 || len(asked) > 0 {
		t.Errorf("before %+v, after %+v, asked %v, %v", before, after, asked, err)
	}
}

// TestAnOldAnswerIsNone: what was answered to an earlier question does not count, and a cancelled wait is no silence.
func TestAnOldAnswerIsNone(t *testing.T) {
	st := memory(t)
	tell(t, st, one, 100, 100)
	tell(t, st, two, 100, 100)
	activate(t, st, one, 7)
	for p := range int32(2) {
		if err := st.PutProgress(context.Background(), store.Progress{Layer: Written(two), Tenant: tenant, Partition: p, Version: 999}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := Promote(context.Background(), st, change()); !errors.Is(err, ErrSilent) {
		t.Errorf("%v, want %v", err, ErrSilent)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	ask := change()
	ask.Wait, ask.Force = time.Minute, true
	if _, _, err := Promote(ctx, st, ask); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want that of the context", err)
	}
}

// TestNextSeq grows whatever the clock does, and is the clock otherwise: a row of the other data centre that is not known
// here is older, so it loses.
func TestNextSeq(t *testing.T) {
	for _, c := range [][3]int64{{0, 1000, 1000}, {999, 1000, 1000}, {1000, 1000, 1001}, {5000, 1000, 5001}} {
		if got := NextSeq(store.Active{Seq: c[0]}, c[1]); got != c[2] {
			t.Errorf("after %d at %d: %d, want %d", c[0], c[1], got, c[2])
		}
	}
}
