package site

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tandem/core/tenant"
	"tandem/schemas/blob"
	"tandem/schemas/configs"
)

// Open loads a site file, opens its blob storage and reads the tenants' chains there: what a job of the site begins with.
func Open(file string) (*Site, blob.Store, error) {
	return Again(file, &Site{}, nil)
}

// Again is Open for who has opened the site before, and has it and its blob storage as they were. Storage stays open where it is
// still the same, of chains what is new is read, and a chain that says what it said is the same one.
func Again(file string, was *Site, blobs blob.Store) (*Site, blob.Store, error) {
	s, err := Load(file)
	if err != nil {
		return nil, nil, err
	}
	if blobs == nil || s.Blobs != was.Blobs {
		was = &Site{}
		if blobs, err = s.OpenBlobs(); err != nil {
			return s, nil, err
		}
	}
	for i := range s.Tenants {
		t := &s.Tenants[i]
		old := slices.IndexFunc(was.Tenants, func(o Tenant) bool { return o.Chain.Tenant == t.Chain.Tenant })
		if old < 0 {
			err = t.readChain(blobs)
		} else {
			err = t.growChain(&was.Tenants[old], blobs)
		}
		if err != nil {
			return s, blobs, err
		}
	}
	return s, blobs, nil
}

// readChain reads the tenant's chain of configs in storage.
func (t *Tenant) readChain(blobs blob.Store) error {
	c, err := configs.Read(blobs, t.Chain.Tenant)
	if err != nil {
		return err
	}
	return t.follow(c)
}

// growChain reads what the chain has more than it had.
func (t *Tenant) growChain(was *Tenant, blobs blob.Store) error {
	c := *was.Configs
	if err := c.Grow(blobs); err != nil {
		return err
	}
	if err := t.follow(&c); err != nil {
		return err
	}
	if same(t.Chain, was.Chain) && same(t.Spliced, was.Spliced) {
		t.Chain, t.Spliced = was.Chain, was.Spliced
	}
	return nil
}

// Grow reads what the chain has more by now.
func (t *Tenant) Grow(blobs blob.Store) error {
	c := *t.Configs
	if err := c.Grow(blobs); err != nil || len(c.Objects) == len(t.Configs.Objects) {
		return err
	}
	if t.Configs.Empty() {
		return t.follow(&c)
	}
	live, spliced, err := c.Compile()
	if err == nil {
		t.Configs, t.Chain, t.Spliced = &c, live, spliced
	}
	return err
}

func same(a, b *tenant.Chain) bool {
	return slices.EqualFunc(a.Revs, b.Revs, func(a, b tenant.Rev) bool { return a.From == b.From && a.To == b.To && a.Config.Equal(b.Config) })
}

// follow goes by a chain. Where one has begun it is what counts, and the files of the site must say how it began.
func (t *Tenant) follow(c *configs.Chain) (err error) {
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

// Texts are the configs of a chain's revisions as they were written, in files of which some may be of no revision.
func Texts(files []tenant.File, chain *tenant.Chain) []string {
	texts := make([]string, len(chain.Revs))
	for _, f := range files {
		cfg, err := tenant.Load(f.Name, f.Data)
		if err != nil {
			continue // the chain is of those that can be read
		}
		for i := range chain.Revs {
			if chain.Revs[i].Config.Equal(cfg) {
				texts[i] = string(f.Data)
			}
		}
	}
	return texts
}

// Texts are those of the revisions of Spliced.
func (t *Tenant) Texts() []string {
	if t.Configs != nil && !t.Configs.Empty() {
		return Texts(t.Configs.Files(), t.Spliced)
	}
	return Texts(t.files, t.Spliced)
}

// LoadChain loads and compiles a tenant's config file, or the revisions in a folder (*.yaml, *.yml; their `from:` orders
// them). Errors name file and line.
func LoadChain(path string) (*tenant.Chain, error) {
	chain, _, err := LoadWritten(path)
	return chain, err
}

// LoadWritten is LoadChain that gives the files too.
func LoadWritten(path string) (*tenant.Chain, []tenant.File, error) {
	files, err := readFiles(path)
	if err != nil {
		return nil, nil, err
	}
	configs, err := tenant.LoadChain(files)
	if err != nil {
		return nil, nil, err
	}
	chain, err := tenant.Compile(configs)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return chain, files, nil
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
