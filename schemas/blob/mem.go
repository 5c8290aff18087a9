package blob

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Mem is a Store in memory, for tests and the demo. It is gone with the process.
type Mem struct {
	mu      sync.RWMutex
	objects map[string][]byte
	// folders outlive their objects, as they do in Dir.
	folders map[string]struct{}
}

// NewMem returns an empty store.
func NewMem() *Mem {
	return &Mem{objects: map[string][]byte{}, folders: map[string]struct{}{}}
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
	m.objects[name] = held
	return nil
}

// Get implements Store.
func (m *Mem) Get(name string) ([]byte, error) {
	data, err := m.find(name)
	if err != nil {
		return nil, err
	}
	return append([]byte{}, data...), nil
}

// Open implements Store.
func (m *Mem) Open(name string) (Reader, error) {
	data, err := m.find(name)
	if err != nil {
		return nil, err
	}
	return Bytes(data), nil
}

func (m *Mem) find(name string) ([]byte, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	data, ok := m.objects[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, ErrNotFound)
	}
	return data, nil
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
