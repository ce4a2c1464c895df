package image_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"flashsale/internal/sandbox/image"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/sandbox/sandboxtest/tier"
)

// The service's image holds the program alone: no shell, no root, no secret.
func TestImageOfTheServiceHoldsTheProgramAlone(t *testing.T) {
	im := load(t, image.API("flashsale.local/api:1", sandboxtest.Build(t, "api")))
	if im.Name != "flashsale.local/api:1" || im.Config.User != "65532:65532" || strings.Join(im.Config.Entrypoint, " ") != "/api" || im.Config.Env != nil {
		t.Errorf("%s has %+v", im.Name, im.Config)
	}
	if len(im.files) != 1 || im.files["api"] == nil || im.files["api"].Mode != 0o755 {
		t.Errorf("the layer has %v, want the program alone", im.files)
	}
}

// secret matches what an administrator keeps on a machine beside its programs.
var secret = regexp.MustCompile(`(^|/)(root/.*|shadow.*|gshadow.*|sudoers.*|\.ssh.*|\.my\.cnf|debian\.cnf|.*\.key|.*\.pem|.*_key|id_.*|environ)$`)

func TestImagesOfServersHaveNoRootAndNoSecret(t *testing.T) {
	tier.OnlyTestAll(t, "ZooKeeper and MariaDB")
	for _, im := range []*image.Image{image.ZooKeeper("flashsale.local/zookeeper:1"), image.MariaDB("flashsale.local/mariadb:1")} {
		got := load(t, im)
		if user, _, _ := strings.Cut(got.Config.User, ":"); user == "" || user == "0" || user == "root" {
			t.Errorf("%s runs as %q", got.Name, got.Config.User)
		}
		if got.files["usr/bin/bash"] == nil || got.files["lib"].Linkname != "usr/lib" {
			t.Errorf("%s has no shell for the scripts of its pods", got.Name)
		}
		for path, file := range got.files {
			if secret.MatchString(path) {
				t.Errorf("%s contains %s", got.Name, path)
			}
			if file.Mode&0o6000 != 0 {
				t.Errorf("%s: %s gives another user's rights", got.Name, path)
			}
		}
	}
	for _, path := range []string{"root/.my.cnf", "etc/shadow", "etc/mysql/debian.cnf", "etc/ssl/private/snakeoil.key"} {
		if !secret.MatchString(path) {
			t.Errorf("%s is not taken for a secret", path)
		}
	}
}

func TestImageIsTheSameForTheSameFiles(t *testing.T) {
	from := t.TempDir()
	program := filepath.Join(from, "program")
	if err := os.WriteFile(program, []byte("one"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("program", filepath.Join(from, "other")); err != nil {
		t.Fatal(err)
	}
	build := func() []byte {
		im := image.New("flashsale.local/test:1", "/app/program")
		im.Copy("/app", from)
		im.Text("/etc/passwd", "root:x:0:0::/:\n", 0o644)
		im.Folder("/tmp", fs.ModeSticky|0o777, 0)
		archive := filepath.Join(t.TempDir(), "image.tar")
		if err := im.Save(archive); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(archive)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	first := build()
	if err := os.Chtimes(program, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, build()) {
		t.Error("two images of the same files differ")
	}
	im := parse(t, first)
	for path, want := range map[string]tar.Header{
		"app/program": {Typeflag: tar.TypeReg, Mode: 0o755}, "app/other": {Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: "program"},
		"tmp/": {Typeflag: tar.TypeDir, Mode: 0o1777}, "etc/": {Typeflag: tar.TypeDir, Mode: 0o755},
	} {
		got := im.files[path]
		if got == nil || got.Typeflag != want.Typeflag || got.Mode != want.Mode || got.Linkname != want.Linkname || got.Uid != 0 {
			t.Errorf("%s is %+v, want %+v", path, got, want)
		}
	}
}

func TestImageOfAMissingFileNamesIt(t *testing.T) {
	im := image.Static("flashsale.local/test:1", "/no/such/program")
	if err := im.Save(filepath.Join(t.TempDir(), "image.tar")); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("Save: %v", err)
	}
}

// loaded is what an archive contains.
type loaded struct {
	Name   string
	Config struct {
		User                 string
		Env, Entrypoint, Cmd []string
	}
	files map[string]*tar.Header // of the layer
}

func load(t *testing.T, im *image.Image) loaded {
	t.Helper()
	archive := filepath.Join(t.TempDir(), "image.tar")
	if err := im.Save(archive); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, text)
}

// parse reads an archive as a runtime does: index, manifest, config and layer.
func parse(t *testing.T, archive []byte) (im loaded) {
	t.Helper()
	blobs := map[string][]byte{}
	each(t, archive, func(header *tar.Header, content []byte) { blobs[header.Name] = content })
	type ref struct {
		Digest      string
		Size        int
		Annotations map[string]string
	}
	read := func(r ref, into any) []byte {
		_, digest, _ := strings.Cut(r.Digest, ":")
		text := blobs["blobs/sha256/"+digest]
		sum := sha256.Sum256(text)
		if len(text) != r.Size || hex.EncodeToString(sum[:]) != digest {
			t.Fatalf("blob %s has %d bytes and digest %x", r.Digest, len(text), sum)
		}
		if into != nil {
			if err := json.Unmarshal(text, into); err != nil {
				t.Fatal(err)
			}
		}
		return text
	}
	var index struct{ Manifests []ref }
	if err := json.Unmarshal(blobs["index.json"], &index); err != nil || len(index.Manifests) != 1 {
		t.Fatalf("index.json: %s, %v", blobs["index.json"], err)
	}
	im.Name = index.Manifests[0].Annotations["io.containerd.image.name"]
	var manifest struct {
		Config ref
		Layers []ref
	}
	read(index.Manifests[0], &manifest)
	read(manifest.Config, &im)
	im.files = map[string]*tar.Header{}
	for _, layer := range manifest.Layers {
		each(t, read(layer, nil), func(header *tar.Header, _ []byte) { im.files[header.Name] = header })
	}
	return im
}

func each(t *testing.T, archive []byte, found func(*tar.Header, []byte)) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		found(header, content)
	}
}
