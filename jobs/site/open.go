package site

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"tandem/schemas/blob"
	"tandem/schemas/blob/s3"
	"tandem/schemas/store"
	"tandem/schemas/store/both"
	"tandem/schemas/store/cassandra"
	"tandem/schemas/store/pebblestore"
	"tandem/stream/broker"
)

// Connection says how to reach the site's Kafka. Files of certificates and passwords are read and checked here, and those
// that may be renewed while the process runs again for each connection: one's own certificate and the password.
func (s *Site) Connection() (broker.Connection, error) {
	to := broker.To(s.Kafka.Brokers...)
	var err error
	if to.TLS, err = s.Kafka.TLS.config(); err != nil {
		return to, fmt.Errorf("kafka: %w", err)
	}
	if s.Kafka.SASL != nil {
		if to.SASL, err = s.Kafka.SASL.open(); err != nil {
			return to, fmt.Errorf("kafka: %w", err)
		}
	}
	return to, nil
}

// config is nil for no TLS.
func (t *TLS) config() (*tls.Config, error) {
	if t == nil {
		return nil, nil
	}
	c := &tls.Config{ServerName: t.ServerName, MinVersion: tls.VersionTLS12}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("tls: ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls: ca: %s has no PEM certificate", t.CA)
		}
	}
	if t.Cert == "" {
		return c, nil
	}
	own := func() (*tls.Certificate, error) {
		if err := private(t.Key); err != nil {
			return nil, fmt.Errorf("tls: key: %w", err)
		}
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("tls: cert %s, key %s: %w", t.Cert, t.Key, err)
		}
		return &pair, nil
	}
	if _, err := own(); err != nil {
		return nil, err
	}
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own() }
	return c, nil
}

func (u *SASL) open() (sasl.Mechanism, error) {
	if _, err := secret(u.PasswordFile); err != nil {
		return nil, fmt.Errorf("sasl: %w", err)
	}
	login := func(context.Context) (scram.Auth, error) {
		pass, err := secret(u.PasswordFile)
		return scram.Auth{User: u.User, Pass: pass}, err
	}
	switch u.Mechanism {
	case "plain":
		return plain.Plain(func(ctx context.Context) (plain.Auth, error) {
			auth, err := login(ctx)
			return plain.Auth{User: auth.User, Pass: auth.Pass}, err
		}), nil
	case "scram-sha-256":
		return scram.Sha256(login), nil
	case "scram-sha-512":
		return scram.Sha512(login), nil
	}
	return nil, fmt.Errorf("sasl: mechanism %q is none of %s", u.Mechanism, strings.Join(mechanisms, ", "))
}

// maxSecret bounds a password file, in bytes.
const maxSecret = 4096

// secret is the text of a password file, less a line end behind it.
func secret(file string) (string, error) {
	if err := private(file); err != nil {
		return "", err
	}
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", fmt.Errorf("password file %s: %w", file, err)
	}
	data = bytes.TrimSuffix(bytes.TrimSuffix(data, []byte("\n")), []byte("\r"))
	if len(data) == 0 || len(data) > maxSecret {
		return "", fmt.Errorf("password file %s: a password of %d bytes; 1 to %d are allowed", file, len(data), maxSecret)
	}
	return string(data), nil
}

// private refuses a file that everyone can read or write. Its group may: that is how a secret is mounted for a service.
func private(file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		return fmt.Errorf("%s holds a secret and has mode %04o: others can read or change it; chmod o= %s", file, mode, file)
	}
	return nil
}

// OpenBlobs opens the storage of the archive, the batch and the sources chain.
func (s *Site) OpenBlobs() (blob.Store, error) { return openBlobs("blobs", s.Blobs) }

// OpenCheckpoints opens the storage of claims and checkpoints.
func (s *Site) OpenCheckpoints() (blob.Store, error) { return openBlobs("checkpoints", s.Checkpoints) }

func openBlobs(what, url string) (blob.Store, error) {
	if strings.HasPrefix(url, "s3://") {
		bucket, err := s3.Open(url)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		return bucket, nil
	}
	dir, err := blob.OpenDir(url)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return dir, nil
}

// OpenStore opens the metric store; where there are two, one that writes both and reads the one that the site says. The
// caller closes it. What Cassandra has to be asked again is logged to the default logger.
func (s *Site) OpenStore(ctx context.Context) (store.Store, error) {
	first, err := s.Store.open(ctx)
	if err != nil || s.SecondStore == nil {
		return first, err
	}
	second, err := s.SecondStore.open(ctx)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("second_%w", err), first.Close())
	}
	if s.ReadSecond {
		first, second = second, first
	}
	return both.New(first, second), nil
}

func (s *Store) open(ctx context.Context) (store.Store, error) {
	if s.Cassandra == nil {
		st, err := pebblestore.Open(s.Pebble, pebblestore.Options{})
		if err != nil {
			return nil, fmt.Errorf("store: %w", err)
		}
		return st, nil
	}
	c, err := s.Config()
	if err != nil {
		return nil, err
	}
	c.Log = slog.Default()
	st, err := cassandra.Open(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return st, nil
}

// Config says how to reach a store in Cassandra. Files of certificates and the password are read here.
func (s *Store) Config() (cassandra.Config, error) {
	c := s.Cassandra
	tls, err := c.TLS.config()
	if err != nil {
		return cassandra.Config{}, fmt.Errorf("store: cassandra: %w", err)
	}
	pass := ""
	if c.PasswordFile != "" {
		if pass, err = secret(c.PasswordFile); err != nil {
			return cassandra.Config{}, fmt.Errorf("store: cassandra: %w", err)
		}
	}
	return cassandra.Config{Hosts: c.Hosts, Keyspace: c.Keyspace, DC: c.DC, Consistency: c.Consistency, Replication: c.Replication,
		TLS: tls, User: c.User, Password: pass}, nil
}
