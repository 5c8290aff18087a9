package cassandra

import (
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gocql/gocql"
)

//go:embed cql/*.cql
var files embed.FS

var (
	keyspaceName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,47}$`)
	comments     = regexp.MustCompile(`(?m)^--.*\n`)
	dcName       = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,100}$`)
)

// A version is one file of cql, in order: the first is version 1.
type version struct {
	digest     string // of the file, less its lines of comments
	statements []string
}

func versions(keyspace string) ([]version, error) {
	entries, err := files.ReadDir("cql")
	if err != nil {
		return nil, err
	}
	var all []version
	for i, e := range entries {
		text, err := files.ReadFile(path.Join("cql", e.Name()))
		if err != nil {
			return nil, err
		}
		if !strings.HasPrefix(e.Name(), fmt.Sprintf("%03d_", i+1)) {
			return nil, fmt.Errorf("%s: not the file of version %d", e.Name(), i+1)
		}
		v := version{digest: fmt.Sprintf("%x", sha256.Sum256(comments.ReplaceAll(text, nil)))}
		for _, s := range strings.SplitAfter(strings.ReplaceAll(string(text), "{keyspace}", keyspace), ";\n") {
			if s = strings.TrimSuffix(strings.TrimSpace(s), ";"); s != "" {
				v.statements = append(v.statements, s)
			}
		}
		all = append(all, v)
	}
	return all, nil
}

// Schema is the statements that make the store, without semicolons: the keyspace, unless replication (replicas by data
// centre) is empty, then the table of versions and all versions, with their comments.
func Schema(keyspace string, replication map[string]int) ([]string, error) {
	if !keyspaceName.MatchString(keyspace) {
		return nil, fmt.Errorf("keyspace %q is not a letter and up to 47 letters, digits and _, all small", keyspace)
	}
	all, err := base(keyspace, replication)
	if err != nil {
		return nil, err
	}
	list, err := versions(keyspace)
	if err != nil {
		return nil, err
	}
	for _, v := range list {
		all = append(all, v.statements...)
	}
	return all, nil
}

// base is what must be there before the first version.
func base(keyspace string, replication map[string]int) ([]string, error) {
	var all []string
	if len(replication) > 0 {
		options := []string{"'class': 'NetworkTopologyStrategy'"}
		for _, dc := range slices.Sorted(maps.Keys(replication)) {
			n := replication[dc]
			if !dcName.MatchString(dc) || dc == "class" || n < 1 || n > 99 {
				return nil, fmt.Errorf("replication %q: %d is not a data centre with 1 to 99 replicas", dc, n)
			}
			options = append(options, fmt.Sprintf("'%s': %d", dc, n))
		}
		all = append(all, fmt.Sprintf("CREATE KEYSPACE IF NOT EXISTS %s WITH replication = {%s}", keyspace, strings.Join(options, ", ")))
	}
	return append(all, fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s.schema_versions (version int PRIMARY KEY, digest text)", keyspace)), nil
}

// Apply makes the keyspace, if Config.Replication is given, and brings its tables to the newest version. Applying again
// changes nothing; one that broke off is taken up. Only one may run at a time. It tries until ctx ends. It fails where
// the keyspace has another replication or another history of versions.
func Apply(ctx context.Context, c Config) error {
	if err := c.check(); err != nil {
		return err
	}
	first, err := base(c.Keyspace, c.Replication)
	if err != nil {
		return err
	}
	list, err := versions(c.Keyspace)
	if err != nil {
		return err
	}
	r := &retrier{log: c.Log}
	session, err := connect(ctx, r, c, "")
	if err != nil {
		return err
	}
	defer session.Close()
	if err := checkReplication(ctx, r, session, c); err != nil {
		return err
	}
	run := func(what string, statement string, args ...any) error {
		return r.retry(ctx, what, func() error { return session.Query(statement, args...).WithContext(ctx).Exec() })
	}
	for _, s := range first {
		if err := run("make the keyspace", s); err != nil {
			return err
		}
	}
	applied, err := appliedVersions(ctx, r, session, c.Keyspace)
	if err != nil {
		return err
	}
	for i, v := range list {
		n := i + 1
		if digest, ok := applied[n]; ok {
			if digest != v.digest {
				return fmt.Errorf("version %d of the schema in keyspace %q is not this program's", n, c.Keyspace)
			}
			continue
		}
		what := fmt.Sprintf("apply version %d of the schema", n)
		for _, s := range v.statements {
			if err := run(what, s); err != nil {
				return err
			}
		}
		// The driver has waited until all nodes agree on the schema.
		insert := fmt.Sprintf("INSERT INTO %s.schema_versions (version, digest) VALUES (?, ?) USING TIMESTAMP ?", c.Keyspace)
		if err := run(what, insert, n, v.digest, time.Now().UnixMicro()); err != nil {
			return err
		}
	}
	return nil
}

// checkReplication fails if the keyspace is there with another replication than is asked for.
func checkReplication(ctx context.Context, r *retrier, session *gocql.Session, c Config) error {
	if len(c.Replication) == 0 {
		return nil
	}
	return r.retry(ctx, "read the replication of keyspace "+c.Keyspace, func() error {
		has, ok, err := replicationOf(ctx, session, c.Keyspace)
		if err != nil || !ok {
			return err
		}
		if !maps.Equal(has, c.Replication) {
			return permanent{fmt.Errorf("it has %v, not %v: change it by ALTER KEYSPACE and run nodetool repair, or name what it has", has, c.Replication)}
		}
		return nil
	})
}

// replicationOf is the replicas of a keyspace by data centre; ok says whether there is such a keyspace.
func replicationOf(ctx context.Context, session *gocql.Session, keyspace string) (replicas map[string]int, ok bool, err error) {
	var options map[string]string
	err = session.Query("SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = ?", keyspace).
		WithContext(ctx).Consistency(gocql.One).Scan(&options)
	if errors.Is(err, gocql.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	replicas = map[string]int{}
	for dc, n := range options {
		if dc == "class" {
			continue
		}
		if replicas[dc], err = strconv.Atoi(n); err != nil {
			return nil, true, permanent{fmt.Errorf("keyspace %q has %s replicas in %q", keyspace, n, dc)}
		}
	}
	return replicas, true, nil
}

func appliedVersions(ctx context.Context, r *retrier, session *gocql.Session, keyspace string) (map[int]string, error) {
	applied := map[int]string{}
	err := r.retry(ctx, "read the schema's versions", func() error {
		iter := session.Query(fmt.Sprintf("SELECT version, digest FROM %s.schema_versions", keyspace)).WithContext(ctx).Iter()
		var n int
		var digest string
		for iter.Scan(&n, &digest) {
			applied[n] = digest
		}
		return iter.Close()
	})
	return applied, err
}

// checkVersion fails if the tables are older than this program. Newer ones are made so that it can go on.
func (s *Store) checkVersion(ctx context.Context, keyspace string) error {
	list, err := versions(keyspace)
	if err != nil {
		return err
	}
	applied, err := appliedVersions(ctx, &s.retrier, s.session, keyspace)
	if err != nil {
		return fmt.Errorf("%w (if keyspace %q has no tables yet, run tandem schema apply)", err, keyspace)
	}
	for i, v := range list {
		if applied[i+1] != v.digest {
			return fmt.Errorf("keyspace %q does not have version %d of the schema: run tandem schema apply", keyspace, i+1)
		}
	}
	return nil
}
