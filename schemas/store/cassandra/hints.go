package cassandra

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/gocql/gocql"
	"golang.org/x/sync/errgroup"
)

// Hint says that a node keeps writes for another one that was away when they were made. Until it has handed them over, whoever
// reads from the other one may miss some of them, and not the later ones.
type Hint struct {
	At     string // address of the node that keeps them
	For    string // of the one that they are for
	DC     string // of that one
	Up     bool   // it is there again
	Files  int
	Oldest time.Time
}

// hintsTimeout bounds what asking one node may take, and hintsAtOnce how many are asked side by side: of a data centre that is gone each
// takes the whole time.
const (
	hintsTimeout = 10 * time.Second
	hintsAtOnce  = 16
)

// Hints asks every node that the store's own data centre knows of, also those of others, what they keep for each other. Silent are
// those that could not be asked, with the reason.
func (s *Store) Hints(ctx context.Context) (hints []Hint, silent []error, err error) {
	nodes, err := s.everyNode(ctx)
	if err != nil {
		return nil, nil, err
	}
	at, failed := make([][]Hint, len(nodes)), make([]error, len(nodes))
	var group errgroup.Group
	group.SetLimit(hintsAtOnce)
	for i, node := range nodes {
		group.Go(func() error {
			at[i], failed[i] = s.hintsAt(ctx, node)
			return nil
		})
	}
	_ = group.Wait() // what failed is by node
	for i, err := range failed {
		if err != nil {
			silent = append(silent, fmt.Errorf("node %s: %w", nodes[i], err))
		}
	}
	return slices.Concat(at...), silent, ctx.Err()
}

// everyNode is HOST:PORT of every node, for clients.
func (s *Store) everyNode(ctx context.Context) (nodes []string, err error) {
	err = s.retry(ctx, "list nodes", func() error {
		nodes = nil
		var ip net.IP
		var port int
		// One of them answers for itself and for all others.
		if err := s.session.Query(`SELECT rpc_address, rpc_port FROM system.local`).WithContext(ctx).Scan(&ip, &port); err != nil {
			return err
		}
		nodes = append(nodes, net.JoinHostPort(ip.String(), strconv.Itoa(port)))
		all := s.session.Query(`SELECT native_address, native_port FROM system.peers_v2`).WithContext(ctx).Iter()
		for all.Scan(&ip, &port) {
			nodes = append(nodes, net.JoinHostPort(ip.String(), strconv.Itoa(port)))
		}
		return all.Close()
	})
	return nodes, err
}

// hintsAt asks one node, which no other can answer for: through a session that knows of no other.
func (s *Store) hintsAt(ctx context.Context, node string) (hints []Hint, err error) {
	c := s.config
	c.Hosts, c.DC = []string{node}, ""
	cluster, err := c.cluster("")
	if err != nil {
		return nil, err
	}
	cluster.DisableInitialHostLookup, cluster.NumConns = true, 1
	cluster.Consistency = gocql.One
	cluster.Timeout, cluster.ConnectTimeout = hintsTimeout, hintsTimeout
	session, err := cluster.CreateSession()
	if err != nil {
		return nil, err
	}
	defer session.Close()
	var ip net.IP
	var status string
	h := Hint{At: node}
	all := session.Query(`SELECT address, dc, status, files, oldest FROM system_views.pending_hints`).WithContext(ctx).Iter()
	for all.Scan(&ip, &h.DC, &status, &h.Files, &h.Oldest) {
		h.For, h.Up = ip.String(), status == "UP"
		hints = append(hints, h)
	}
	return hints, all.Close()
}
