package devstack

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"os"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"tandem/schemas/store/cassandra"
)

// Servers that ask for users and speak TLS only let in who is right, and nobody else.
func TestUsersAndTLS(t *testing.T) {
	stack := Start(t, Options{Brokers: 1, Nodes: 1, Auth: true, TLS: true})
	pem, err := os.ReadFile(stack.CA)
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	if !trusted.AppendCertsFromPEM(pem) {
		t.Fatalf("%s holds no certificate", stack.CA)
	}
	trust := &tls.Config{RootCAs: trusted}

	t.Run("Kafka", func(t *testing.T) {
		ask := func(limit time.Duration, opts ...kgo.Opt) error {
			client, err := kgo.NewClient(append(opts, kgo.SeedBrokers(stack.Kafka...))...)
			if err != nil {
				return err
			}
			defer client.Close()
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			_, err = kadm.NewClient(client).ListBrokers(ctx)
			return err
		}
		for _, login := range []sasl.Mechanism{
			plain.Auth{User: "tandem", Pass: "secret"}.AsMechanism(),
			scram.Auth{User: "tandem", Pass: "secret"}.AsSha256Mechanism(),
			scram.Auth{User: "tandem", Pass: "secret"}.AsSha512Mechanism(),
		} {
			if err := ask(30*time.Second, kgo.DialTLSConfig(trust), kgo.SASL(login)); err != nil {
				t.Errorf("%s: %v", login.Name(), err)
			}
		}
		wrong := scram.Auth{User: "tandem", Pass: "wrong"}.AsSha256Mechanism()
		for name, opts := range map[string][]kgo.Opt{
			"wrong password": {kgo.DialTLSConfig(trust), kgo.SASL(wrong)},
			"no user":        {kgo.DialTLSConfig(trust)},
			"no trust":       {kgo.DialTLSConfig(&tls.Config{}), kgo.SASL(wrong)},
			"no TLS":         {kgo.SASL(wrong)},
		} {
			if err := ask(time.Second, opts...); err == nil {
				t.Errorf("%s: let in", name)
			}
		}
	})

	t.Run("Cassandra", func(t *testing.T) {
		right := cassandra.Config{Hosts: stack.Cassandra, Keyspace: "tandem", DC: "dc1", Replication: map[string]int{"dc1": 1},
			TLS: trust, User: "cassandra", Password: "cassandra"}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := cassandra.Apply(ctx, right); err != nil {
			t.Fatal(err)
		}
		s, err := cassandra.Open(ctx, right)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		for name, change := range map[string]func(*cassandra.Config){
			"wrong password": func(c *cassandra.Config) { c.Password = "wrong" },
			"no user":        func(c *cassandra.Config) { c.User = "" },
			"no trust":       func(c *cassandra.Config) { c.TLS = &tls.Config{} },
			"no TLS":         func(c *cassandra.Config) { c.TLS = nil },
		} {
			wrong := right
			change(&wrong)
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			if _, err := cassandra.Open(ctx, wrong); err == nil {
				t.Errorf("%s: let in", name)
			}
			cancel()
		}
	})
}
