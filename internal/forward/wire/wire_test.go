package wire_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"flashsale/internal/sandbox/sandboxtest/tier"
)

func TestGeneratedCodeIsCurrent(t *testing.T) {
	tier.OnlyTestAll(t, "goprotoc")
	const folder = "internal/forward/wire"
	fresh := t.TempDir()
	out, err := exec.CommandContext(t.Context(), "../../../scripts/protoc", folder+"/wire.proto", fresh).CombinedOutput()
	if err != nil {
		t.Fatalf("scripts/protoc: %v\n%s", err, out)
	}
	for _, file := range []string{"wire.pb.go", "wire_grpc.pb.go"} {
		if read(t, file) != read(t, filepath.Join(fresh, folder, file)) {
			t.Errorf("%s is not what scripts/protoc makes of wire.proto: run go generate here", file)
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
