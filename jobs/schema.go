package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"tandem/jobs/site"
	"tandem/schemas/store/cassandra"
)

const schemaUsage = `usage: tandem schema print|apply --site SITE.yaml
       tandem schema print --keyspace K [--replication DC:N,...]
       tandem schema apply --hosts HOST:PORT,... --keyspace K [--replication DC:N,...] [--dc DC]

The tables of the metric store in Cassandra. print writes their CQL, for those who apply it by other means; apply makes the
keyspace, if its replication is given and it is missing, and brings its tables to the newest version. It may be repeated,
but not by two at once. Users, passwords and TLS are told by a site file.

It fails if the keyspace has another replication than is given, and after --timeout if Cassandra is not to be reached.

example:
  tandem schema apply --hosts 127.0.0.1:9042 --keyspace tandem --replication dc1:3

`

// runSchema is `tandem schema`.
func runSchema(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("schema", flag.ContinueOnError)
	file := flags.String("site", "", "site `file` that names the store")
	hosts := flags.String("hosts", "", "`nodes` to connect to, HOST:PORT, by commas")
	keyspace := flags.String("keyspace", "", "`keyspace`")
	dc := flags.String("dc", "", "`data centre` whose nodes are used; all if absent")
	var replication replicationFlag
	flags.Var(&replication, "replication", "`replicas` by data centre, as dc1:3,dc2:3")
	timeout := flags.Duration("timeout", time.Minute, "how long apply may take")
	rest, code, over := parse(flags, schemaUsage, args, stderr)
	if over {
		return code
	}
	if len(rest) != 1 || rest[0] != "print" && rest[0] != "apply" {
		return wrongUsage(stderr, "schema", "it needs one of print and apply")
	}
	apply := rest[0] == "apply"
	switch {
	case *file != "" && (*hosts != "" || *keyspace != "" || *dc != "" || len(replication) > 0):
		return wrongUsage(stderr, "schema", "--site tells hosts, keyspace, data centre and replication; give no other flag for them")
	case *file == "" && *keyspace == "":
		return wrongUsage(stderr, "schema", "--site or --keyspace is needed")
	case *file == "" && apply && *hosts == "":
		return wrongUsage(stderr, "schema", "apply needs --site or --hosts")
	}
	all := []cassandra.Config{{Hosts: strings.Split(*hosts, ","), Keyspace: *keyspace, DC: *dc, Replication: replication}}
	if *file != "" {
		var err error
		if all, err = siteStores(*file); err != nil {
			return failed(stderr, "schema", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	for _, c := range all {
		if !apply {
			statements, err := cassandra.Schema(c.Keyspace, c.Replication)
			if err != nil {
				return failed(stderr, "schema", err)
			}
			fmt.Fprintln(stdout, strings.Join(statements, ";\n\n")+";")
			continue
		}
		c.Log = slog.New(slog.NewTextHandler(stderr, nil))
		if err := cassandra.Apply(ctx, c); err != nil {
			return failed(stderr, "schema", err)
		}
		fmt.Fprintf(stderr, "keyspace %s has the newest schema\n", c.Keyspace)
	}
	return 0
}

// siteStores are those of the site's stores that are in Cassandra, at least one.
func siteStores(file string) (all []cassandra.Config, err error) {
	s, err := site.Load(file)
	if err != nil {
		return nil, err
	}
	for _, st := range s.Stores() {
		if st.Cassandra != nil {
			c, err := st.Config()
			if err != nil {
				return nil, err
			}
			all = append(all, c)
		}
	}
	if len(all) == 0 {
		return nil, errors.New("the site's store is not in Cassandra")
	}
	return all, nil
}

// replicationFlag is replicas by data centre.
type replicationFlag map[string]int

func (f *replicationFlag) String() string { return "" }

// Set implements flag.Value.
func (f *replicationFlag) Set(s string) error {
	*f = replicationFlag{}
	for _, one := range strings.Split(s, ",") {
		dc, n, ok := strings.Cut(one, ":")
		replicas, err := strconv.Atoi(n)
		if !ok || err != nil || dc == "" || replicas < 1 {
			return fmt.Errorf("%q is not a data centre and its replicas, as dc1:3", one)
		}
		if _, twice := (*f)[dc]; twice {
			return fmt.Errorf("data centre %q is named twice", dc)
		}
		(*f)[dc] = replicas
	}
	return nil
}
