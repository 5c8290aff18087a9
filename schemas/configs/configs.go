// Package configs is the chain of a tenant's configs in blob storage (DESIGN 9): config/<tenant>/<revision>.yaml, each a
// create-only object that adds to those before it, read by name and never listed.
//
// The first holds what the tenant began with: one revision or several, as YAML documents in the order of `from`. Each of the
// others is a revision, or with a `to` a splice. One that came too late, by the storage's clock, is void for everyone. Beside each
// of the others stands its seal, which keeps that clock's time and the digest of the text: whoever reads the object first
// writes it, so that a copy of the storage, which has other times, tells the same.
package configs

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"tandem/core/tenant"
	"tandem/schemas/blob"
	"tandem/schemas/sealed"
)

// maxRevision is the last revision: its name has six digits.
const maxRevision = 999_999

// Times of the chain (DESIGN 9).
const (
	// ahead is how far before it comes into force, max_skew aside, a revision must be there at the latest: readers may go by
	// what they saw so long ago.
	ahead = 30 * time.Second
	// Ahead is how far before it, max_skew aside, Apply takes a revision: what is left for clocks that differ and for writing.
	Ahead = 60 * time.Second
)

// Object is an object of the chain.
type Object struct {
	Revision int
	Configs  []*tenant.Config // one, but for the first object
	Created  time.Time        // by the storage's clock
	Void     string           // why it is void; empty: it is not
}

// Chain is a tenant's chain as it was read: a chain that is read later begins with it.
type Chain struct {
	Tenant  string
	Objects []Object
	files   []tenant.File // of what is not void
	fits    tenant.Sequence
}

// Empty says that the tenant has no chain in storage.
func (c *Chain) Empty() bool { return len(c.Objects) == 0 }

// Configs are those of the chain that are not void, in its order.
func (c *Chain) Configs() (all []*tenant.Config) {
	for _, o := range c.Objects {
		if o.Void == "" {
			all = append(all, o.Configs...)
		}
	}
	return all
}

// Files are the texts of Configs, as they were written.
func (c *Chain) Files() []tenant.File { return slices.Clone(c.files) }

// Compile compiles the chain twice: as the stream and the archive read by it, and with what splices say of the past, as
// the batch does.
func (c *Chain) Compile() (live, spliced *tenant.Chain, err error) {
	return compile(c.Configs())
}

func compile(all []*tenant.Config) (live, spliced *tenant.Chain, err error) {
	if live, err = tenant.CompileLive(all); err != nil {
		return nil, nil, err
	}
	for _, cfg := range all {
		if cfg.HasTo {
			spliced, err = tenant.Compile(all)
			return live, spliced, err
		}
	}
	return live, live, nil
}

// Name is the name of a revision's object.
func Name(tenant string, revision int) string {
	return fmt.Sprintf("config/%s/%06d.yaml", tenant, revision)
}

func sealName(tenant string, revision int) string {
	return fmt.Sprintf("config/%s/%06d.seal.json", tenant, revision)
}

// Read reads the chain of a tenant; an empty one where there is none.
func Read(blobs blob.Store, name string) (*Chain, error) {
	c := &Chain{Tenant: name}
	ahead, err := readAhead(blobs, "config/"+name+"/")
	if err != nil {
		return nil, err
	}
	return c, c.Grow(ahead)
}

// known is a storage of which some objects are known already.
type known struct {
	blob.Store
	objects map[string][]byte
}

func (k *known) Get(name string) ([]byte, error) {
	if data, ok := k.objects[name]; ok {
		return data, nil
	}
	return k.Store.Get(name)
}

// readAhead gets the objects of a folder that are listed, side by side. Which objects there are their names say, one after another: one
// that a listing has not yet, or that cannot be read now, is read then.
func readAhead(blobs blob.Store, folder string) (*known, error) {
	names, err := blobs.List(folder)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	k := &known{blobs, map[string][]byte{}}
	var g errgroup.Group
	g.SetLimit(blob.RequestsAtOnce)
	var mu sync.Mutex
	for _, name := range names {
		g.Go(func() error {
			if data, err := blobs.Get(name); err == nil {
				mu.Lock()
				defer mu.Unlock()
				k.objects[name] = data
			}
			return nil
		})
	}
	return k, g.Wait()
}

// Grow reads what has been added since the chain was read.
func (c *Chain) Grow(blobs blob.Store) error {
	for len(c.Objects) < maxRevision {
		revision := len(c.Objects) + 1
		data, err := blobs.Get(Name(c.Tenant, revision))
		if errors.Is(err, blob.ErrNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("config: %w", err)
		}
		s, err := readSeal(blobs, c.Tenant, revision, data)
		if err != nil {
			return fmt.Errorf("config %s: %w", Name(c.Tenant, revision), err)
		}
		if err := c.add(data, time.UnixMilli(s.CreatedMS).UTC()); err != nil {
			return err
		}
	}
	return nil
}

// add adds the next object.
func (c *Chain) add(data []byte, created time.Time) error {
	revision := len(c.Objects) + 1
	name := Name(c.Tenant, revision)
	o := Object{Revision: revision, Created: created}
	docs := []tenant.File{{Name: name, Data: data}}
	if revision == 1 {
		docs = documents(name, data)
	}
	read := make([]tenant.Document, len(docs))
	for i, d := range docs {
		var err error
		if read[i], err = tenant.Read(d); err != nil {
			return err
		}
		cfg := read[i].Config()
		if cfg.Tenant != c.Tenant {
			return fmt.Errorf("%s: it is a config of tenant %s", name, cfg.Tenant)
		}
		o.Configs = append(o.Configs, cfg)
	}
	if revision > 1 {
		o.Void = void(o.Configs[0], created)
	}
	if o.Void == "" {
		fits := c.fits
		for _, d := range read {
			var err error
			if fits, err = fits.Add(d); err != nil {
				return err
			}
		}
		c.files, c.fits = append(c.files[:len(c.files):len(c.files)], docs...), fits
	}
	c.Objects = append(c.Objects, o)
	return nil
}

// void says why a config that was created then counts for nobody, "" if it counts.
func void(cfg *tenant.Config, created time.Time) string {
	if cfg.HasTo {
		if to := time.UnixMilli(cfg.To); created.Before(to) {
			return fmt.Sprintf("a splice up to %s was created at %s: splices are of the past", stamp(to), stamp(created))
		}
		return ""
	}
	from := time.UnixMilli(cfg.From)
	if last := from.Add(-time.Duration(cfg.MaxSkew)*time.Millisecond - ahead); created.After(last) {
		return fmt.Sprintf("it is in force from %s and was created at %s, after %s: some may have read beacons without it",
			stamp(from), stamp(created), stamp(last))
	}
	return ""
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// seal is what stands beside an object.
type seal struct {
	SHA256    string `json:"sha256"` // of the object
	CreatedMS int64  `json:"created_ms"`
}

func readSeal(blobs blob.Store, name string, revision int, data []byte) (seal, error) {
	var s seal
	sum := sha256.Sum256(data)
	digest := hex.EncodeToString(sum[:])
	for {
		sealedData, err := blobs.Get(sealName(name, revision))
		if err == nil {
			if _, err := sealed.Unmarshal(sealedData, &s); err != nil {
				return s, fmt.Errorf("its seal: %w", err)
			}
			if s.SHA256 != digest {
				return s, fmt.Errorf("its SHA-256 is %s, and %s when it was sealed: it was changed, or is corrupt", digest, s.SHA256)
			}
			return s, nil
		}
		if !errors.Is(err, blob.ErrNotFound) {
			return s, fmt.Errorf("its seal: %w", err)
		}
		created, err := blobs.Created(Name(name, revision))
		if err != nil {
			return s, err
		}
		s = seal{digest, created.UnixMilli()}
		if sealedData, err = sealed.Marshal(s); err != nil {
			return s, err
		}
		if err := blobs.Create(sealName(name, revision), sealedData); err == nil || !errors.Is(err, blob.ErrExists) {
			return s, nil // who may only read goes by the same times
		}
	}
}

// documents divides a YAML stream where a line is ---.
func documents(name string, data []byte) (docs []tenant.File) {
	for i, d := range bytes.Split(append([]byte("\n"), data...), []byte("\n---\n")) {
		docs = append(docs, tenant.File{Name: fmt.Sprintf("%s, document %d", name, i+1), Data: bytes.TrimPrefix(d, []byte("\n"))})
	}
	return docs
}

// ErrRefused is wrapped when what is to be appended does not fit the chain as it is.
var ErrRefused = errors.New("refused")

// Begin writes the first object, the revisions that a tenant begins with in the order of `from`, unless there is one.
func Begin(blobs blob.Store, name string, files []tenant.File) error {
	configs, err := tenant.LoadChain(files)
	if err != nil {
		return err
	}
	if configs[0].Tenant != name {
		return fmt.Errorf("%s: it is a config of tenant %s, not of %s", files[0].Name, configs[0].Tenant, name)
	}
	type start struct {
		has bool
		ms  int64
	}
	texts := map[start][]byte{}
	for _, f := range files {
		cfg, err := tenant.Load(f.Name, f.Data)
		if err != nil {
			return err
		}
		texts[start{cfg.HasFrom, cfg.From}] = f.Data
	}
	var data []byte
	for i, cfg := range configs { // in order, each as it stands in its file
		if i > 0 {
			data = append(data, "---\n"...)
		}
		data = append(data, bytes.TrimSuffix(texts[start{cfg.HasFrom, cfg.From}], []byte("\n"))...)
		data = append(data, '\n')
	}
	if err := blobs.Create(Name(name, 1), data); err != nil && !errors.Is(err, blob.ErrExists) {
		return fmt.Errorf("config: %w", err)
	}
	return nil
}

// Try returns the chain with a config appended, as it would be if that were created now. Its error wraps ErrRefused if the
// chain does not take it, or says what is wrong in the file.
func (c *Chain) Try(f tenant.File, now time.Time) (*Chain, error) {
	read, err := tenant.Read(f)
	if err != nil {
		return nil, err
	}
	cfg := read.Config()
	if !cfg.HasFrom {
		return nil, fmt.Errorf("%s: %w: no `from`: a revision says from when on it is in force", f.Name, ErrRefused)
	}
	if !cfg.HasTo {
		least := now.Add(time.Duration(cfg.MaxSkew)*time.Millisecond + Ahead)
		if from := time.UnixMilli(cfg.From); from.Before(least) {
			return nil, fmt.Errorf("%s: %w: `from` %s is too near: max_skew and a minute ahead is %s; what has happened is changed by a splice, which has a `to`",
				f.Name, ErrRefused, stamp(from), stamp(least.Add(time.Minute-1).Truncate(time.Minute)))
		}
	} else if why := void(cfg, now); why != "" {
		return nil, fmt.Errorf("%s: %w: %s", f.Name, ErrRefused, why)
	}
	return c.with(f, read, now)
}

// with is the chain with a config appended, whenever that may be.
func (c *Chain) with(f tenant.File, read tenant.Document, now time.Time) (*Chain, error) {
	cfg := read.Config()
	if cfg.Tenant != c.Tenant {
		return nil, fmt.Errorf("%s: %w: it is a config of tenant %s, not of %s", f.Name, ErrRefused, cfg.Tenant, c.Tenant)
	}
	next := &Chain{Tenant: c.Tenant, files: append(c.files[:len(c.files):len(c.files)], f)}
	next.Objects = append(append(next.Objects, c.Objects...), Object{Revision: len(c.Objects) + 1, Configs: []*tenant.Config{cfg}, Created: now})
	var err error
	if next.fits, err = c.fits.Add(read); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if _, _, err := next.Compile(); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", f.Name, ErrRefused, err)
	}
	return next, nil
}

// Append appends a config to the chain, which must have begun, and returns what it then is; now is checked before the object is
// created, the storage's clock after. It is an error if that clock makes it void. A config that says what the chain's last object
// says, times included, is there already, so that a command that was killed may be given again.
func Append(blobs blob.Store, name string, f tenant.File, now time.Time) (*Chain, error) {
	for {
		c, err := Read(blobs, name)
		if err != nil {
			return nil, err
		}
		if c.Empty() {
			return nil, fmt.Errorf("tenant %s has no chain of configs in storage yet", name)
		}
		last := &c.Objects[len(c.Objects)-1]
		if cfg, err := tenant.Load(f.Name, f.Data); err == nil && last.Void == "" && last.Configs[len(last.Configs)-1].Equal(cfg) {
			return c, nil
		}
		if len(c.Objects) == maxRevision {
			return nil, fmt.Errorf("revision %d is the last one possible", maxRevision)
		}
		if _, err := c.Try(f, now); err != nil {
			return nil, err
		}
		object := Name(name, len(c.Objects)+1)
		err = blobs.Create(object, f.Data)
		if errors.Is(err, blob.ErrExists) {
			continue // another was faster, and this one has to follow it
		}
		if err != nil {
			return nil, fmt.Errorf("config: %w", err)
		}
		if err := c.Grow(blobs); err != nil {
			return nil, err
		}
		for i := range c.Objects {
			if o := &c.Objects[i]; Name(name, o.Revision) == object && o.Void != "" {
				return nil, fmt.Errorf("%s is void: %s", object, o.Void)
			}
		}
		return c, nil
	}
}
