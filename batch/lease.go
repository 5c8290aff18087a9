package batch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"tandem/schemas/blob"
	"tandem/schemas/sealed"
)

// Lease keeps a second run of a tenant waiting while there is a first. It only spares work: two runs at once are harmless,
// so whoever holds it never asks whether it still does.
//
// It is a row of create-only objects, the newest of which says who holds it; its holder writes the next one every Every.
// One that has stayed the newest for Dead, by the clock of whoever waits, is the end of a run that was killed. No two clocks
// are ever compared.
type Lease struct {
	Blobs  blob.Store
	Folder string // of its objects, with a slash at the end
	Holder string // for people: who runs
	Every  time.Duration
	Dead   time.Duration // well above Every
}

// Times of the batch's leases: a run that was killed keeps the next one waiting for at most Dead and the time of a look.
const (
	leaseEvery = 15 * time.Second
	leaseDead  = time.Minute
)

// Lease is the lease of the tenant.
func (j *Job) Lease(holder string) *Lease {
	return &Lease{Blobs: j.Blobs, Folder: j.folder() + "lease/", Holder: holder, Every: leaseEvery, Dead: leaseDead}
}

// held is the content of an object of a lease.
type held struct {
	Holder string
	Free   bool
}

// Take takes the lease, waiting at most wait for it. ok is false if another, who is named, holds it still. release gives it
// back and must be called once if ok.
func (l *Lease) Take(ctx context.Context, wait time.Duration) (release func() error, other string, ok bool, err error) {
	began := time.Now()
	var seen int64
	since := began
	for {
		n, h, err := l.newest()
		if err != nil {
			return nil, "", false, err
		}
		if n != seen {
			seen, since = n, time.Now()
		}
		if n == 0 || h.Free || time.Since(since) >= l.Dead {
			mine, err := l.seize(n)
			if err != nil {
				return nil, "", false, err
			}
			if mine {
				return l.keep(n + 1), "", true, nil
			}
			continue // another was faster
		}
		if time.Since(began) >= wait {
			return nil, h.Holder, false, nil
		}
		select {
		case <-ctx.Done():
			return nil, "", false, ctx.Err()
		case <-time.After(min(l.Every/3, max(wait-time.Since(began), time.Millisecond))):
		}
	}
}

// seize writes the object after n, and says whether it is the newest: another may have written it, given it back and
// forgotten it since n was looked at.
func (l *Lease) seize(n int64) (mine bool, err error) {
	if err := l.put(n+1, held{Holder: l.Holder}); err != nil {
		if errors.Is(err, blob.ErrExists) {
			return false, nil
		}
		return false, err
	}
	newest, _, err := l.newest()
	if err != nil {
		return false, err
	}
	forget := n
	if newest != n+1 {
		forget = n + 1
	}
	return newest == n+1, l.Blobs.Delete(l.name(forget))
}

// newest reads the newest object; n is 0 if there is none.
func (l *Lease) newest() (n int64, h held, err error) {
	for {
		names, err := l.Blobs.List(l.Folder)
		if err != nil || len(names) == 0 {
			return 0, held{}, err
		}
		name := names[len(names)-1]
		if _, err := fmt.Sscanf(name[len(l.Folder):], "%d.json", &n); err != nil {
			return 0, held{}, fmt.Errorf("lease %s: not a lease's name", name)
		}
		data, err := l.Blobs.Get(name)
		if errors.Is(err, blob.ErrNotFound) {
			continue // its holder has written the next one
		}
		if err == nil {
			_, err = sealed.Unmarshal(data, &h)
		}
		if err != nil {
			return 0, held{}, fmt.Errorf("lease %s: %w; if it is wrong for good, delete it", name, err)
		}
		return n, h, nil
	}
}

func (l *Lease) name(n int64) string { return fmt.Sprintf("%s%012d.json", l.Folder, n) }

func (l *Lease) put(n int64, h held) error {
	data, err := sealed.Marshal(h)
	if err == nil {
		err = l.Blobs.Create(l.name(n), data)
	}
	if err != nil {
		return fmt.Errorf("lease: %w", err)
	}
	return nil
}

// keep writes the next object again and again, until the lease is released or another has taken it.
func (l *Lease) keep(n int64) (release func() error) {
	stop, ended := make(chan struct{}), make(chan struct{})
	lost := false
	// next writes the object after n and forgets n, which nobody needs any more: left behind it costs a file.
	next := func(h held) error {
		err := l.put(n+1, h)
		if errors.Is(err, blob.ErrExists) {
			lost = true // it was taken for dead: the two run side by side
			return nil
		}
		if err == nil {
			err = l.Blobs.Delete(l.name(n))
			n++
		}
		return err
	}
	go func() {
		defer close(ended)
		tick := time.NewTicker(l.Every)
		defer tick.Stop()
		for !lost {
			select {
			case <-stop:
				return
			case <-tick.C:
				_ = next(held{Holder: l.Holder}) // the next tick tries again
			}
		}
	}()
	return sync.OnceValue(func() error {
		close(stop)
		<-ended
		if lost {
			return nil
		}
		return next(held{Holder: l.Holder, Free: true})
	})
}
