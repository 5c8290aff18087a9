package blob

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Mem is a Store in memory, for tests and the demo. It is gone with the process.
type Mem struct {
	mu      sync.RWMutex
	objects map[string]memObject
	// folders outlive their objects, as they do in Dir.
	folders map[string]struct{}
}

type memObject struct {
	data    []byte
	created time.Time
}

// NewMem returns an empty store.
func NewMem() *Mem {
	return &Mem{objects: map[string]memObject{}, folders: map[string]struct{}{}}
}

// Create implements Store.
func (m *Mem) Create(name string, data []byte) error {
	if err := CheckCreate(name, len(data)); err != nil {
		return err
	}
	held := bytes.Clone(data)
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[name]; ok {
		return fmt.Errorf("%s: %w", name, ErrExists)
	}
	if _, ok := m.folders[name]; ok {
		return fmt.Errorf("%s: %w", name, ErrFolder)
	}
	for i := range len(name) {
		if name[i] == '/' {
			if _, ok := m.objects[name[:i]]; ok {
				return fmt.Errorf("%s: %w", name, ErrFolder)
			}
		}
	}
	for i := range len(name) {
		if name[i] == '/' {
			m.folders[name[:i]] = struct{}{}
		}
	}
	m.objects[name] = memObject{held, time.Now()}
	return nil
}

// Get implements Store.
func (m *Mem) Get(name string) ([]byte, error) {
	o, err := m.find(name)
	if err != nil {
		return nil, err
	}
	return append([]byte{}, o.data...), nil
}

// Open implements Store.
func (m *Mem) Open(name string) (Reader, error) {
	o, err := m.find(name)
	if err != nil {
		return nil, err
	}
	return Bytes(o.data), nil
}

// Created implements Store.
func (m *Mem) Created(name string) (time.Time, error) {
	o, err := m.find(name)
	return o.created, err
}

func (m *Mem) find(name string) (memObject, error) {
	if err := CheckName(name); err != nil {
		return memObject{}, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	o, ok := m.objects[name]
	if !ok {
		return memObject{}, fmt.Errorf("%s: %w", name, ErrNotFound)
	}
	return o, nil
}

// List implements Store.
func (m *Mem) List(prefix string) ([]string, error) {
	if err := CheckPrefix(prefix); err != nil {
		return nil, err
	}
	names := []string{}
	m.mu.RLock()
	for name := range m.objects {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	m.mu.RUnlock()
	slices.Sort(names)
	return names, nil
}

// Delete implements Store.
func (m *Mem) Delete(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, name)
	return nil
}

// Bytes is a Reader over bytes in memory; the caller must not change them while it is used.
func Bytes(data []byte) Reader { return bytesReader{bytes.NewReader(data)} }

type bytesReader struct{ *bytes.Reader }

func (bytesReader) Close() error { return nil }
