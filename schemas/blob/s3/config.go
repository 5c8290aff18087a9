package s3

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"tandem/schemas/blob"
)

// Config says where objects are. Credentials are not part of it: they come from the usual places (see Open).
type Config struct {
	Bucket   string
	Prefix   string // of every object's key, without slashes at its ends; may be empty
	Endpoint string // http or https URL without a path; empty: that of AWS
	Region   string // empty: AWS_REGION, AWS_DEFAULT_REGION or us-east-1
}

// maxPrefix leaves room for the longest name in a key of 1024 bytes.
const maxPrefix = 1024 - blob.MaxNameBytes - 1

var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

// Parse reads s3://BUCKET/PREFIX?endpoint=URL&region=REGION; all behind the bucket may be absent.
func Parse(text string) (Config, error) {
	fail := func(format string, args ...any) (Config, error) {
		return Config{}, fmt.Errorf("%s: %w", text, fmt.Errorf(format, args...))
	}
	u, err := url.Parse(text)
	if err != nil {
		return Config{}, err
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return fail("%w", err)
	}
	c := Config{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/"), Endpoint: query.Get("endpoint"), Region: query.Get("region")}
	switch {
	case u.Scheme != "s3":
		return fail("it does not begin with s3://")
	case u.User != nil:
		return fail("credentials do not belong in a URL; use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	case !bucketName.MatchString(c.Bucket):
		return fail("%q is no name of a bucket: 3 to 63 of a-z 0-9 . -", c.Bucket)
	case len(c.Prefix) > maxPrefix:
		return fail("the prefix has %d bytes, at most %d are allowed", len(c.Prefix), maxPrefix)
	}
	if c.Prefix != "" {
		if err := blob.CheckName(c.Prefix); err != nil {
			return fail("prefix: %w", err)
		}
	}
	for key, values := range query {
		if key != "endpoint" && key != "region" || len(values) != 1 || values[0] == "" {
			return fail("parameter %q: endpoint and region are known, each once and with a value", key)
		}
	}
	if c.Endpoint != "" {
		e, err := url.Parse(c.Endpoint)
		if err != nil || e.Scheme != "http" && e.Scheme != "https" || e.Host == "" || strings.Trim(e.Path, "/") != "" || e.RawQuery != "" || e.User != nil {
			return fail("endpoint %q is not as http://HOST:PORT or https://HOST", c.Endpoint)
		}
	}
	return c, nil
}

// client makes a client that tries each request once: what is tried again, and how often, is decided here.
func (c Config) client(transport http.RoundTripper) (*minio.Client, error) {
	host, secure, lookup := "s3.amazonaws.com", true, minio.BucketLookupAuto
	places := []credentials.Provider{&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}}
	if c.Endpoint == "" {
		places = append(places, &credentials.IAM{}) // a role of the machine or the pod
	} else {
		e, err := url.Parse(c.Endpoint)
		if err != nil {
			return nil, err
		}
		host, secure, lookup = e.Host, e.Scheme == "https", minio.BucketLookupPath
	}
	creds := credentials.NewChainCredentials(places)
	found, err := creds.GetWithContext(&credentials.CredContext{Client: &http.Client{Timeout: 5 * time.Second}})
	if err != nil {
		return nil, err
	}
	if found.AccessKeyID == "" {
		return nil, fmt.Errorf("no credentials are found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE for ~/.aws/credentials")
	}
	region := c.Region
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION"} {
		if region == "" {
			region = os.Getenv(name)
		}
	}
	if region == "" {
		region = "us-east-1"
	}
	return minio.New(host, &minio.Options{Creds: creds, Secure: secure, Region: region, BucketLookup: lookup, Transport: transport, MaxRetries: 1})
}
