package site

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"tandem/core/tenant"
	"tandem/schemas/blob"
	"tandem/schemas/configs"
)

// Open loads a site file, opens its blob storage and reads the tenants' chains there: what a job of the site begins with.
func Open(file string) (*Site, blob.Store, error) {
	s, err := Load(file)
	if err != nil {
		return nil, nil, err
	}
	blobs, err := s.OpenBlobs()
	for i := range s.Tenants {
		if err == nil {
			err = s.Tenants[i].readChain(blobs)
		}
	}
	return s, blobs, err
}

// readChain reads the tenant's chain of configs in storage. Where one has begun it is what counts, and the files of the site
// must say how it began.
func (t *Tenant) readChain(blobs blob.Store) error {
	c, err := configs.Read(blobs, t.Chain.Tenant)
	if err != nil {
		return err
	}
	t.Configs = c
	if c.Empty() {
		return nil
	}
	first := c.Objects[0].Configs
	same := len(first) == len(t.Chain.Revs)
	for i := 0; same && i < len(first); i++ {
		same = first[i].Equal(t.Chain.Revs[i].Config)
	}
	if !same {
		return fmt.Errorf("%s is not what the chain of tenant %s began with, %s: a chain only grows; leave the file as it was, and append what is new with tandem config apply",
			t.Config, c.Tenant, configs.Name(c.Tenant, 1))
	}
	t.Chain, t.Spliced, err = c.Compile()
	return err
}

// Begin writes the chain of the tenant with what the site's files say, unless there is one, and reads it.
func (t *Tenant) Begin(blobs blob.Store) error {
	if !t.Configs.Empty() {
		return nil
	}
	files, err := readFiles(t.Config)
	if err == nil {
		err = configs.Begin(blobs, t.Chain.Tenant, files)
	}
	if err == nil {
		err = t.readChain(blobs)
	}
	return err
}

// Try returns the tenant's chain with a config appended, as it would be if that were created now.
func (t *Tenant) Try(f tenant.File, now time.Time) (*configs.Chain, error) {
	if !t.Configs.Empty() {
		return t.Configs.Try(f, now)
	}
	files, err := readFiles(t.Config)
	if err != nil {
		return nil, err
	}
	begun := blob.NewMem()
	if err := configs.Begin(begun, t.Chain.Tenant, files); err != nil {
		return nil, err
	}
	c, err := configs.Read(begun, t.Chain.Tenant)
	if err != nil {
		return nil, err
	}
	return c.Try(f, now)
}

// LoadChain loads and compiles a tenant's config file, or the revisions in a folder (*.yaml, *.yml; their `from:` orders
// them). Errors name file and line.
func LoadChain(path string) (*tenant.Chain, error) {
	files, err := readFiles(path)
	if err != nil {
		return nil, err
	}
	configs, err := tenant.LoadChain(files)
	if err != nil {
		return nil, err
	}
	chain, err := tenant.Compile(configs)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return chain, nil
}

// readFiles reads a config file, or those of a folder.
func readFiles(path string) (files []tenant.File, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	names := []string{path}
	if info.IsDir() {
		if names, err = configsIn(path); err != nil {
			return nil, err
		}
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		files = append(files, tenant.File{Name: name, Data: data})
	}
	return files, nil
}

func configsIn(folder string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		if !e.IsDir() && !strings.HasPrefix(e.Name(), ".") && (ext == ".yaml" || ext == ".yml") {
			names = append(names, filepath.Join(folder, e.Name()))
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s: no .yaml file in this folder", folder)
	}
	return names, nil
}
