package lockserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"flashsale/deploy/kubernetes"
	"flashsale/internal/sandbox"
	"flashsale/internal/sleep"
)

const (
	namespace = "flashsale"
	// The API server needs some tenths of a second to serve a new custom resource. It
	// is polled every crdPoll, for at most crdTimeout.
	crdPoll    = 50 * time.Millisecond
	crdTimeout = 20 * time.Second
	// maxAnswer is the most of an answer that an error quotes.
	maxAnswer = 4 << 10
)

// startKubernetes starts an API server with an etcd of its own, and creates a
// namespace and the custom resource.
func (s *Server) startKubernetes(ctx context.Context) error {
	endpoints, err := s.startEtcd(ctx)
	if err != nil {
		return err
	}
	k, err := sandbox.StartKubernetes(ctx, endpoints)
	if err != nil {
		return err
	}
	s.stops = append(s.stops, k.Close)
	dir, remove, err := sandbox.TempFolder()
	if err != nil {
		return err
	}
	s.stops = append(s.stops, remove)
	token, ca := filepath.Join(dir, "token"), filepath.Join(dir, "ca.crt")
	if err := errors.Join(os.WriteFile(token, []byte(k.Token), 0o600), os.WriteFile(ca, k.CA, 0o600)); err != nil {
		return err
	}
	s.Servers.KubeServer, s.Servers.KubeTokenFile, s.Servers.KubeCA, s.Servers.KubeNamespace = k.URL, token, ca, namespace
	return applyManifests(ctx, k)
}

// applyManifests creates the namespace and the custom resource, as kubectl would.
func applyManifests(ctx context.Context, k *sandbox.Kubernetes) error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(k.CA)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	call := func(method, path, body string) (status int, err error) {
		request, err := http.NewRequestWithContext(ctx, method, k.URL+path, strings.NewReader(body))
		if err != nil {
			return 0, err
		}
		request.Header.Set("Authorization", "Bearer "+k.Token)
		request.Header.Set("Content-Type", "application/yaml")
		answer, err := client.Do(request)
		if err != nil {
			return 0, err
		}
		defer answer.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(answer.Body, maxAnswer)) // an error quotes what could be read
		if answer.StatusCode >= http.StatusMultipleChoices {
			err = fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, text)
		}
		return answer.StatusCode, err
	}
	if _, err := call(http.MethodPost, "/api/v1/namespaces", "{apiVersion: v1, kind: Namespace, metadata: {name: "+namespace+"}}"); err != nil {
		return err
	}
	if _, err := call(http.MethodPost, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", kubernetes.StockLock); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, crdTimeout)
	defer cancel()
	for {
		status, err := call(http.MethodGet, "/apis/flashsale.internal/v1/namespaces/"+namespace+"/stocklocks", "")
		// A new resource is first unknown, and then answered with 429.
		if status != http.StatusNotFound && status != http.StatusTooManyRequests {
			return err
		}
		if sleep.For(ctx, crdPoll) != nil {
			return fmt.Errorf("the API server does not serve the custom resource: %w", err)
		}
	}
}
