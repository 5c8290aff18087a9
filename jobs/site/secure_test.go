package site

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"tandem/scripts/devstack"
	"tandem/stream/broker"
)

// authority is a CA made for a test, with its files in a folder.
type authority struct {
	t      *testing.T
	folder string
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	issued int64
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, folder: t.TempDir()}
	a.cert, a.key = a.issue("ca", nil)
	return a
}

func (a *authority) file(name string) string { return filepath.Join(a.folder, name) }

// issue writes NAME.pem and NAME.key; without hosts it is the authority's own, or a client's.
func (a *authority) issue(name string, hosts []string) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	a.issued++
	c := &x509.Certificate{SerialNumber: big.NewInt(a.issued), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, h)
		}
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(a.file(file), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return c, key
}

// server is a TLS config for a certificate of these hosts; mutual asks for one of the client's.
func (a *authority) server(mutual bool, hosts ...string) *tls.Config {
	a.t.Helper()
	a.issue("server", hosts)
	pair, err := tls.LoadX509KeyPair(a.file("server.pem"), a.file("server.key"))
	if err != nil {
		a.t.Fatal(err)
	}
	c := &tls.Config{Certificates: []tls.Certificate{pair}}
	if mutual {
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		c.ClientCAs.AddCert(a.cert)
	}
	return c
}

func startKafka(t *testing.T, opts ...kfake.Opt) string {
	t.Helper()
	c, err := kfake.NewCluster(append(opts, kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.ListenAddrs()[0]
}

// connect loads a site file with these settings of kafka.
func connect(t *testing.T, kafka, addr, pass string) broker.Connection {
	t.Helper()
	s, err := Load(folder(t, strings.Replace(least, "{brokers: [k:9092]}", "{brokers: ['"+addr+"']"+kafka+"}", 1), "pass", pass+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	to, err := s.Connection()
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// use describes a topic, writes a record to it and reads it.
func use(ctx context.Context, to broker.Connection) error {
	topics, err := broker.NewTopics(to)
	if err != nil {
		return err
	}
	defer topics.Close()
	if _, err := topics.Describe(ctx, "t"); err != nil {
		return err
	}
	w, err := broker.NewWriter(to)
	if err != nil {
		return err
	}
	defer w.Close()
	if err := w.Write(ctx, []broker.Record{{Topic: "t", Value: []byte("x")}}); err != nil {
		return err
	}
	r, err := broker.NewReader(to, map[broker.Partition]int64{{Topic: "t"}: 0})
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = r.Poll(ctx, 1)
	return err
}

func TestKafkaSecurity(t *testing.T) {
	devstack.AtLength(t)
	a, other := newAuthority(t), newAuthority(t)
	a.issue("client", nil)
	other.issue("client", nil)
	plain := startKafka(t)
	encrypted := startKafka(t, kfake.TLS(a.server(false, "127.0.0.1")))
	named := startKafka(t, kfake.TLS(a.server(false, "kafka.test")))
	mutual := startKafka(t, kfake.TLS(a.server(true, "127.0.0.1")))
	user := startKafka(t, kfake.TLS(a.server(false, "127.0.0.1")), kfake.EnableSASL(), kfake.Superuser("PLAIN", "u", "right"),
		kfake.Superuser("SCRAM-SHA-256", "u", "right"), kfake.Superuser("SCRAM-SHA-512", "u", "right"))
	ca := ", tls: {ca: " + a.file("ca.pem") + "}"
	cert := func(of *authority) string {
		return ", tls: {ca: " + a.file("ca.pem") + ", cert: " + of.file("client.pem") + ", key: " + of.file("client.key") + "}"
	}
	sasl := func(mechanism, user string) string {
		return ", sasl: {mechanism: " + mechanism + ", user: " + user + ", password_file: pass}"
	}
	for _, c := range []struct {
		name, kafka, addr, pass string
		want                    string // part of the error; empty: it works
	}{
		{"nothing", "", plain, "", ""},
		{"TLS", ca, encrypted, "", ""},
		{"a name for the server", ", tls: {ca: " + a.file("ca.pem") + ", server_name: kafka.test}", named, "", ""},
		{"another name", ca, named, "", "doesn't contain any IP SANs"},
		{"unknown CA", ", tls: {ca: " + other.file("ca.pem") + "}", encrypted, "", "certificate signed by unknown authority"},
		{"system's roots", ", tls: {}", encrypted, "", "certificate signed by unknown authority"},
		{"TLS to a plain port", ca, plain, "", "do the brokers 127.0.0.1:"},
		{"plain to a TLS port", "", encrypted, "", "is TLS missing?"},
		{"client's certificate", cert(a), mutual, "", ""},
		{"no certificate", ca, mutual, "", "tls: certificate required"},
		{"certificate of an unknown CA", cert(other), mutual, "", "tls: unknown certificate authority"},
		{"plain", ca + sasl("plain", "u"), user, "right", ""},
		{"scram 256", ca + sasl("scram-sha-256", "u"), user, "right", ""},
		{"scram 512", ca + sasl("scram-sha-512", "u"), user, "right", ""},
		{"plain, wrong password", ca + sasl("plain", "u"), user, "wrong", "is the user or the password wrong?"},
		{"scram, wrong password", ca + sasl("scram-sha-256", "u"), user, "wrong", "is the user or the password wrong?"},
		{"unknown user", ca + sasl("scram-sha-512", "v"), user, "right", "is the user or the password wrong?"},
		{"no user", ca, user, "", "is SASL missing?"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			patience := 20 * time.Second
			if c.name == "TLS to a plain port" { // which waits for more to come
				patience = 2 * time.Second
			}
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			err := use(ctx, connect(t, c.kafka, c.addr, c.pass))
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

// TestRenewedSecrets: a password that is changed while the process runs is used for the next connection.
func TestRenewedSecrets(t *testing.T) {
	devstack.AtLength(t)
	addr := startKafka(t, kfake.EnableSASL(), kfake.Superuser("PLAIN", "u", "new"))
	s, err := Load(folder(t, strings.Replace(least, "{brokers: [k:9092]}", "{brokers: ['"+addr+"'], sasl: {mechanism: plain, user: u, password_file: pass}}", 1), "pass", "old"))
	if err != nil {
		t.Fatal(err)
	}
	to, err := s.Connection()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := use(ctx, to); err == nil {
		t.Fatal("the old password is taken")
	}
	if err := os.WriteFile(s.Kafka.SASL.PasswordFile, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := use(ctx, to); err != nil {
		t.Error(err)
	}
}
