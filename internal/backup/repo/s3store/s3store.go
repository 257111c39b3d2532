// Package s3store opens buckets of S3, and of servers that speak its protocol,
// through kopia's s3 storage. What it adds is where credentials come from, and
// that a bucket is looked at before it is used, so that what is wrong is said
// at once and in one sentence.
//
// Every blob is sent with its MD5, which the server compares with what it
// received before it answers.
package s3store

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"

	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/blob/s3"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"cowl/internal/errs"
)

// Options say where the blobs are.
type Options struct {
	Endpoint string // HOST or HOST:PORT
	Plain    bool   // http
	Bucket   string
	Prefix   string // of all names, "" or with a slash at its end
	// Getenv has the credentials: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and
	// AWS_SESSION_TOKEN, or AWS_PROFILE of AWS_SHARED_CREDENTIALS_FILE
	// (~/.aws/credentials); AWS_REGION or AWS_DEFAULT_REGION; and AWS_CA_BUNDLE.
	Getenv func(string) string
}

// tries is how often the first request is sent.
const tries = 2

// New returns the storage in a bucket that exists.
func New(ctx context.Context, o Options) (blob.Storage, error) {
	value, err := o.credentials()
	if err != nil {
		return nil, err
	}
	k := &s3.Options{
		BucketName: o.Bucket, Prefix: o.Prefix, Endpoint: o.Endpoint, DoNotUseTLS: o.Plain, Region: o.region(),
		AccessKeyID: value.AccessKeyID, SecretAccessKey: value.SecretAccessKey, SessionToken: value.SessionToken,
	}
	if name := o.Getenv("AWS_CA_BUNDLE"); name != "" {
		if k.RootCA, err = os.ReadFile(name); err != nil {
			return nil, fmt.Errorf("AWS_CA_BUNDLE: %w", err)
		}
	}
	if err := o.look(ctx, value, k.RootCA); err != nil {
		return nil, err
	}
	return s3.New(ctx, k, false)
}

// region is the one that requests are signed for, "" to ask the server.
func (o Options) region() string {
	if r := o.Getenv("AWS_REGION"); r != "" {
		return r
	}
	return o.Getenv("AWS_DEFAULT_REGION")
}

// credentials looks for a key.
func (o Options) credentials() (credentials.Value, error) {
	v := credentials.Value{
		AccessKeyID: o.Getenv("AWS_ACCESS_KEY_ID"), SecretAccessKey: o.Getenv("AWS_SECRET_ACCESS_KEY"), SessionToken: o.Getenv("AWS_SESSION_TOKEN"),
		SignerType: credentials.SignatureV4,
	}
	switch {
	case v.AccessKeyID != "" && v.SecretAccessKey != "":
		return v, nil
	case v.AccessKeyID != "" || v.SecretAccessKey != "":
		return v, errs.E(errs.Usage, "of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY only one is set")
	}
	file := &credentials.FileAWSCredentials{Filename: o.Getenv("AWS_SHARED_CREDENTIALS_FILE"), Profile: o.Getenv("AWS_PROFILE")}
	v, err := file.RetrieveWithCredContext(nil)
	if err == nil && (v.AccessKeyID == "" || v.SecretAccessKey == "") {
		err = errors.New("no key in it")
	}
	if err != nil {
		return v, errs.WithHint(errs.E(errs.Usage, "no credentials for %s (credentials file: %w)", o.Endpoint, err),
			"Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or write ~/.aws/credentials.")
	}
	return v, nil
}

// look asks for the bucket.
func (o Options) look(ctx context.Context, v credentials.Value, ca []byte) error {
	transport, err := transport(ca, !o.Plain)
	if err != nil {
		return err
	}
	c, err := minio.New(o.Endpoint, &minio.Options{
		Creds: credentials.NewStatic(v.AccessKeyID, v.SecretAccessKey, v.SessionToken, v.SignerType), Secure: !o.Plain,
		Region: o.region(), Transport: transport, MaxRetries: tries,
	})
	if err != nil {
		return errs.E(errs.Usage, "%s: %w", o.Endpoint, err)
	}
	found, err := c.BucketExists(ctx, o.Bucket)
	if err != nil {
		return o.explain(ctx, err)
	}
	if !found {
		return errs.WithHint(errs.E(errs.NotFound, "there is no bucket %s at %s", o.Bucket, o.Endpoint), "Make it, or look at its name; some servers say so of a key that they do not know, too.")
	}
	return nil
}

// explain says why the server does not answer as it should.
func (o Options) explain(ctx context.Context, err error) error {
	var answer minio.ErrorResponse
	var netErr *net.OpError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &answer) && (answer.StatusCode == http.StatusForbidden || answer.StatusCode == http.StatusUnauthorized):
		return errs.WithHint(errs.E(errs.Denied, "%s does not let us into bucket %s: %w", o.Endpoint, o.Bucket, err),
			"Look at the key (AWS_ACCESS_KEY_ID, AWS_PROFILE), at what it may do, and at AWS_REGION.")
	case errors.As(err, &netErr):
		return errs.WithHint(errs.E(errs.Other, "%s cannot be reached: %w", o.Endpoint, netErr), "Look at its name, port, and whether it is http:// or https://.")
	}
	return errs.E(errs.Other, "bucket %s at %s: %w", o.Bucket, o.Endpoint, err)
}

// transport is minio's own, with a certificate authority if one is told.
func transport(ca []byte, secure bool) (*http.Transport, error) {
	t, err := minio.DefaultTransport(secure)
	if err != nil || len(ca) == 0 || t.TLSClientConfig == nil {
		return t, err
	}
	pool := t.TLSClientConfig.RootCAs
	if pool == nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(ca) {
		return nil, errs.E(errs.Usage, "AWS_CA_BUNDLE: there is no certificate in it")
	}
	t.TLSClientConfig.RootCAs = pool
	return t, nil
}
