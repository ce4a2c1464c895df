// Package typescript_test generates a client in TypeScript from the contract, compiles a
// storefront that uses it, and runs that beside a replica.
package typescript_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"flashsale/internal/httpapi/spec"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

const (
	secret     = "a secret for tests of at least 32 bytes"
	adminToken = "an admin token for tests, of 32 bytes"
	// patience bounds each program, also on a busy machine.
	patience = 3 * time.Minute
)

var (
	servers   *sandbox.Stack
	databases atomic.Int32
)

func TestMain(m *testing.M) {
	sandboxtest.Main(m, sandbox.Config{MySQL: true, EtcdNodes: 1}, &servers)
}

func TestTypedStorefrontOrders(t *testing.T) {
	dsn, err := servers.MySQL.CreateDatabase(t.Context(), fmt.Sprintf("typescript%d", databases.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	replica := sandboxtest.StartReplica(t, sandbox.ReplicaConfig{Replica: "replica-1", MySQLDSN: dsn, EtcdEndpoints: servers.EtcdEndpoints(),
		AdminToken: adminToken, JWTSecret: secret, Args: []string{"--insecure-demo"}})
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, replica.URL+"/v1/admin/skus/lamp",
		strings.NewReader(`{"name":"A lamp","price_cents":4900,"currency":"EUR","units":1}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+adminToken)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusCreated {
		t.Fatalf("create the SKU: %s", answer.Status)
	}
	folder, err := compile(t, spec.YAML)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SHOP", replica.URL)
	t.Setenv("TOKEN", sandboxtest.Token(t, secret, map[string]any{"sub": "alice"}))
	if err := node(t, folder, "shop.js"); err != nil {
		t.Error(err)
	}
}

// The storefront must not compile with a contract that is less typed.
func TestCompilerChecksTheContract(t *testing.T) {
	t.Parallel()
	contract := string(spec.YAML)
	for _, change := range [][2]string{
		{"type: {$ref: '#/components/schemas/ProblemType', x-order: 1}", "type: {type: string}"},
		{"available: {type: integer, format: int64, x-order: 3}", "left: {type: integer}"},
		{"OrderRequest:\n      type: object\n      additionalProperties: false", "OrderRequest:\n      type: object\n      additionalProperties: true"},
	} {
		if !strings.Contains(contract, change[0]) {
			t.Fatalf("the contract has no %q", change[0])
		}
		contract = strings.Replace(contract, change[0], change[1], 1)
	}
	_, err := compile(t, []byte(contract))
	if err == nil {
		t.Fatal("the storefront compiled")
	}
	// In order: a misspelled type, an event without its field, and an unknown field in a request.
	want := regexp.MustCompile(`(?s)Unused '@ts-expect-error'.*'available' does not exist.*Unused '@ts-expect-error'`)
	if !want.MatchString(err.Error()) {
		t.Errorf("the compiler returned %v, want %s", err, want)
	}
}

// compile compiles the storefront with a contract, in the folder that it returns.
func compile(t *testing.T, contract []byte) (folder string, err error) {
	t.Helper()
	packages, err := exec.CommandContext(t.Context(), "../../scripts/typescript", "--folder").Output()
	if err != nil {
		t.Fatal(err)
	}
	modules := filepath.Join(strings.TrimSpace(string(packages)), "node_modules")
	if _, err := os.Stat(modules); err != nil {
		t.Fatalf("%v: run scripts/setup --typescript", err)
	}
	folder = t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(folder, "openapi.yaml"), contract, 0o600), os.Symlink(modules, filepath.Join(folder, "node_modules"))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"package.json", "tsconfig.json", "shop.ts"} {
		text, err := os.ReadFile(name)
		if err == nil {
			err = os.WriteFile(filepath.Join(folder, name), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := node(t, folder, "node_modules/openapi-typescript/bin/cli.js", "openapi.yaml", "-o", "flashsale.ts"); err != nil {
		t.Fatal(err)
	}
	return folder, node(t, folder, "node_modules/typescript/bin/tsc", "-p", ".")
}

// node runs a script in a folder. Its error has what the script printed.
func node(t *testing.T, folder string, args ...string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	command := exec.CommandContext(ctx, "node", args...)
	command.Dir = folder
	said, err := command.CombinedOutput()
	if err != nil {
		return errors.Join(err, errors.New(string(said)))
	}
	return nil
}
