package testbed

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"

	"flashsale/internal/backend"
	"flashsale/internal/sandbox"
)

// APIServer is the shared Kubernetes API server, with a namespace for this run.
type APIServer struct {
	run    *Run
	server *sandbox.Kubernetes
	client *http.Client
}

// APIServer connects to the shared API server as an administrator. It stores its objects
// in the shared etcd.
func (r *Run) APIServer() *APIServer {
	endpoint := r.Etcd().Endpoint
	server, err := shared(r.bed, &r.bed.kube, func() (*sandbox.Kubernetes, error) {
		return sandbox.StartKubernetes(r.ctx, []string{endpoint})
	}, (*sandbox.Kubernetes).Close)
	r.Check(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(server.CA)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	r.Cleanup(func() error { transport.CloseIdleConnections(); return nil })
	a := &APIServer{run: r, server: server, client: &http.Client{Transport: transport}}
	namespace := map[string]any{"metadata": map[string]any{"name": r.Name}}
	// The run may have connected before.
	if status := a.Call(http.MethodPost, "/api/v1/namespaces", namespace, nil); status != http.StatusCreated && status != http.StatusConflict {
		r.Fail("create namespace %s: %s", r.Name, http.StatusText(status))
	}
	return a
}

// Call sends a request with a body in JSON and returns the status of the answer. An
// answer without an error is decoded into result, unless that is nil.
func (a *APIServer) Call(method, path string, body, result any) (status int) {
	text, err := json.Marshal(body)
	a.run.Check(err)
	request, err := http.NewRequestWithContext(a.run.ctx, method, a.server.URL+path, bytes.NewReader(text))
	a.run.Check(err)
	request.Header.Set("Authorization", "Bearer "+a.server.Token)
	request.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		request.Header.Set("Content-Type", "application/merge-patch+json")
	}
	answer, err := a.client.Do(request)
	a.run.Check(err)
	defer func() { _ = answer.Body.Close() }()
	if result != nil && answer.StatusCode < http.StatusMultipleChoices {
		a.run.Check(json.NewDecoder(answer.Body).Decode(result))
	}
	return answer.StatusCode
}

// servers is how a replica's process finds the API server.
func (a *APIServer) servers() backend.Servers {
	folder, remove, err := sandbox.TempFolder()
	a.run.Check(err)
	a.run.Cleanup(remove)
	token, ca := filepath.Join(folder, "token"), filepath.Join(folder, "ca.crt")
	a.run.Check(errors.Join(os.WriteFile(token, []byte(a.server.Token), 0o600), os.WriteFile(ca, a.server.CA, 0o600)))
	return backend.Servers{KubeServer: a.server.URL, KubeTokenFile: token, KubeCA: ca, KubeNamespace: a.run.Name}
}
