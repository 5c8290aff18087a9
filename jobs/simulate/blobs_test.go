package simulate

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tandem/schemas/blob"
)

// blobs is blob storage: create-only objects that reading by name finds at once and lists only later, deletions too.
// Creating may fail with or without the object being there then, and for a while all creating fails: the disk is full.
type blobs struct {
	s       *sim
	objects map[string]*object
	full    int64 // until then
	// made is told of each object that was created, changed of each attempt to create one again with other bytes.
	made    func(name string, data []byte)
	changed func(name string, is, other []byte)
	deleted func(name string)
}

type object struct {
	data   []byte
	made   int64 // ms
	listed int64 // ms, from when on it is listed
	gone   int64 // ms, from when on it is listed no more; 0: it is not deleted
}

func newBlobs(s *sim) *blobs { return &blobs{s: s, objects: map[string]*object{}} }

// lag is how long listing is behind.
func (b *blobs) lag() int64 {
	if b.s.quiet || b.s.r.IntN(3) > 0 {
		return 0
	}
	return b.s.r.Int64N(b.s.opt.TickMS/2 + 1)
}

// Create implements blob.Store.
func (b *blobs) Create(name string, data []byte) error {
	s := b.s
	if err := blob.CheckCreate(name, len(data)); err != nil {
		return err
	}
	if err := s.step("create"); err != nil {
		return err
	}
	if s.fault("disk full", .002) {
		b.full = s.now + s.r.Int64N(3*s.opt.TickMS+1)
		s.tell("the disk is full until %s", clock(b.full))
	}
	if b.full > s.now && !s.quiet {
		return fmt.Errorf("create %s: no space: %w", name, errInjected)
	}
	lost := s.fault("create", .01)
	if lost && s.r.IntN(2) == 0 {
		s.tell("not created, and an error: %s", name)
		return fmt.Errorf("create %s: %w", name, errInjected)
	}
	if o := b.objects[name]; o != nil && o.gone == 0 {
		if !bytes.Equal(o.data, data) && b.changed != nil {
			b.changed(name, o.data, data)
		}
		return fmt.Errorf("%s: %w", name, blob.ErrExists)
	}
	b.objects[name] = &object{data: bytes.Clone(data), made: s.now, listed: s.now + b.lag()}
	if b.made != nil {
		b.made(name, data)
	}
	s.note("created", name)
	s.tell("created %s, %d bytes", name, len(data))
	if lost {
		s.tell("created, and an error: %s", name)
		return fmt.Errorf("create %s: %w", name, errInjected)
	}
	return nil
}

// Get implements blob.Store.
func (b *blobs) Get(name string) ([]byte, error) {
	if err := b.s.step("get"); err != nil {
		return nil, err
	}
	if b.s.fault("get", .004) {
		return nil, fmt.Errorf("get %s: %w", name, errInjected)
	}
	data, err := b.find(name)
	return bytes.Clone(data), err
}

func (b *blobs) find(name string) ([]byte, error) {
	if o := b.objects[name]; o != nil && o.gone == 0 {
		return o.data, nil
	}
	return nil, fmt.Errorf("%s: %w", name, blob.ErrNotFound)
}

// Open implements blob.Store.
func (b *blobs) Open(name string) (blob.Reader, error) {
	if err := b.s.step("open"); err != nil {
		return nil, err
	}
	if b.s.fault("open", .004) {
		return nil, fmt.Errorf("open %s: %w", name, errInjected)
	}
	data, err := b.find(name)
	if err != nil {
		return nil, err
	}
	return blob.Bytes(data), nil
}

// Created implements blob.Store.
func (b *blobs) Created(name string) (time.Time, error) {
	if err := b.s.step("created"); err != nil {
		return time.Time{}, err
	}
	if _, err := b.find(name); err != nil {
		return time.Time{}, err
	}
	return time.UnixMilli(b.objects[name].made), nil
}

// List implements blob.Store.
func (b *blobs) List(prefix string) ([]string, error) {
	if err := b.s.step("list"); err != nil {
		return nil, err
	}
	if b.s.fault("list", .004) {
		return nil, fmt.Errorf("list %s: %w", prefix, errInjected)
	}
	names := []string{}
	for name, o := range b.objects {
		if strings.HasPrefix(name, prefix) && o.listed <= b.s.now && (o.gone == 0 || o.gone > b.s.now) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Delete implements blob.Store.
func (b *blobs) Delete(name string) error {
	if err := b.s.step("delete"); err != nil {
		return err
	}
	if b.s.fault("delete", .02) {
		return fmt.Errorf("delete %s: %w", name, errInjected)
	}
	if o := b.objects[name]; o != nil && o.gone == 0 {
		o.gone = b.s.now + 1 + b.lag()
		if b.deleted != nil {
			b.deleted(name)
		}
		b.s.note("deleted", name)
		b.s.tell("deleted %s", name)
	}
	return nil
}

// quietBlobs reads what there is, for checkers: no side effect of anybody.
type quietBlobs struct{ b *blobs }

func (q quietBlobs) Get(name string) ([]byte, error) { return q.b.find(name) }

func (q quietBlobs) Open(name string) (blob.Reader, error) {
	data, err := q.b.find(name)
	if err != nil {
		return nil, err
	}
	return blob.Bytes(data), nil
}

func (q quietBlobs) List(prefix string) ([]string, error) {
	var names []string
	for name, o := range q.b.objects {
		if o.gone == 0 && strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func (q quietBlobs) Created(name string) (time.Time, error) {
	if _, err := q.b.find(name); err != nil {
		return time.Time{}, err
	}
	return time.UnixMilli(q.b.objects[name].made), nil
}

func (q quietBlobs) Create(string, []byte) error { return errors.New("only read") }
func (q quietBlobs) Delete(string) error         { return errors.New("only read") }
