// Package image makes container images from files of this machine: programs that were
// just built, or that are installed. It needs no registry, no daemon and no root, and
// the same files give the same image.
//
// An image has one layer, and what runs in it is the files that it was given: there is
// no shell unless it was added.
package image

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
)

// Image is an image in the making. The methods that add to it replace what has the same
// path, and remember the first error, which Save returns.
type Image struct {
	// Name is its whole name, such as "flashsale.local/api:1".
	Name string
	// Entrypoint and Command are the program and its arguments.
	Entrypoint, Command []string
	// Env are variables, as name=value.
	Env []string
	// User is a user and a group, in numbers.
	User string

	files map[string]file
	err   error
}

// file is a file, folder or symbolic link of an image. Its content is that of the file
// from, or data.
type file struct {
	mode fs.FileMode
	uid  int
	from string
	data string // the target of a link
}

// nobody is the user and group of images that need no user of their own.
const nobody = "65532:65532"

// New returns an image without files, for an ordinary user.
func New(name string, entrypoint ...string) *Image {
	return &Image{Name: name, Entrypoint: entrypoint, User: nobody, files: map[string]file{}}
}

// Folder adds an empty folder of a user.
func (im *Image) Folder(path string, mode fs.FileMode, uid int) {
	im.add(path, file{mode: fs.ModeDir | mode, uid: uid})
}

// Text adds a file with this content.
func (im *Image) Text(path, text string, mode fs.FileMode) {
	im.add(path, file{mode: mode, data: text})
}

// Link adds a symbolic link.
func (im *Image) Link(path, target string) {
	im.add(path, file{mode: fs.ModeSymlink | 0o777, data: target})
}

// Copy adds a file of this machine, or a folder with all that it contains. Links in the
// folder stay links; the one that is named is followed. Its path here may be another one.
func (im *Image) Copy(path, named string) {
	from, err := filepath.EvalSymlinks(named)
	if err == nil {
		err = filepath.WalkDir(from, func(name string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			relative, err := filepath.Rel(from, name)
			if err != nil {
				return err
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			added := file{mode: info.Mode() & (fs.ModeType | fs.ModePerm), from: name}
			switch {
			case info.Mode()&fs.ModeSymlink != 0:
				added.data, err = os.Readlink(name)
			case !info.IsDir() && !info.Mode().IsRegular():
				err = errors.New("is no file, folder or link")
			}
			im.add(filepath.Join(path, relative), added)
			return err
		})
	}
	if err != nil {
		im.err = errors.Join(im.err, fmt.Errorf("add %s: %w", named, err))
	}
}

// Remove removes a file, or a folder with all that it contains.
func (im *Image) Remove(name string) {
	for other := range im.files {
		if rest, err := filepath.Rel(name, other); err == nil && filepath.IsLocal(rest) {
			delete(im.files, other)
		}
	}
}

func (im *Image) add(name string, f file) {
	name = path.Clean(name)
	im.files[name] = f
	for parent := path.Dir(name); parent != "/"; parent = path.Dir(parent) {
		if _, known := im.files[parent]; !known {
			im.files[parent] = file{mode: fs.ModeDir | 0o755}
		}
	}
}

// Save writes the image into an archive that `ctr images import` reads, an OCI image
// layout.
func (im *Image) Save(archive string) (err error) {
	if im.err != nil {
		return fmt.Errorf("make the image %s: %w", im.Name, im.err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("save the image %s: %w", im.Name, err)
		}
	}()
	out, err := os.OpenFile(archive, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	// The layer's digest is its name in the archive, and so comes before it.
	layer, err := os.CreateTemp(filepath.Dir(archive), "layer-")
	if err != nil {
		return err
	}
	defer os.Remove(layer.Name())
	defer layer.Close()
	hash := sha256.New()
	if err := im.writeLayer(io.MultiWriter(layer, hash)); err != nil {
		return err
	}
	size, err := layer.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if _, err := layer.Seek(0, io.SeekStart); err != nil {
		return err
	}
	digest := "sha256:" + hex.EncodeToString(hash.Sum(nil))

	w := tar.NewWriter(out)
	if err := w.WriteHeader(&tar.Header{Name: blob(digest), Mode: 0o644, Size: size}); err != nil {
		return err
	}
	if _, err := io.Copy(w, layer); err != nil {
		return err
	}
	if err := im.writeLayout(w, descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar", Digest: digest, Size: size}); err != nil {
		return err
	}
	return w.Close()
}

// writeLayer writes the files in the order of their names. They belong to root, and
// have no time: the same files are the same layer.
func (im *Image) writeLayer(to io.Writer) error {
	w := tar.NewWriter(to)
	for _, name := range slices.Sorted(maps.Keys(im.files)) {
		if err := writeFile(w, name[1:], im.files[name]); err != nil {
			return err
		}
	}
	return w.Close()
}

func writeFile(w *tar.Writer, name string, f file) error {
	header := &tar.Header{Name: name, Mode: int64(f.mode.Perm()), Uid: f.uid, Gid: f.uid}
	if f.mode&fs.ModeSticky != 0 {
		header.Mode |= 0o1000
	}
	switch {
	case f.mode.IsDir():
		header.Typeflag, header.Name = tar.TypeDir, name+"/"
		return w.WriteHeader(header)
	case f.mode&fs.ModeSymlink != 0:
		header.Typeflag, header.Linkname = tar.TypeSymlink, f.data
		return w.WriteHeader(header)
	case f.from == "":
		header.Size = int64(len(f.data))
		if err := w.WriteHeader(header); err != nil {
			return err
		}
		_, err := io.WriteString(w, f.data)
		return err
	}
	in, err := os.Open(f.from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	header.Size = info.Size()
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.CopyN(w, in, header.Size)
	return err
}

// descriptor refers to a blob.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    map[string]string `json:"platform,omitempty"`
}

// writeLayout writes everything but the layer:
// https://github.com/opencontainers/image-spec/blob/main/image-layout.md
func (im *Image) writeLayout(w *tar.Writer, layer descriptor) error {
	platform := map[string]string{"os": "linux", "architecture": runtime.GOARCH}
	config, err := writeBlob(w, "application/vnd.oci.image.config.v1+json", map[string]any{
		"os": platform["os"], "architecture": platform["architecture"],
		"config": map[string]any{"User": im.User, "Env": im.Env, "Entrypoint": im.Entrypoint, "Cmd": im.Command},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{layer.Digest}},
	})
	if err != nil {
		return err
	}
	const manifestType = "application/vnd.oci.image.manifest.v1+json"
	manifest, err := writeBlob(w, manifestType, map[string]any{
		"schemaVersion": 2, "mediaType": manifestType, "config": config, "layers": []descriptor{layer},
	})
	if err != nil {
		return err
	}
	manifest.Platform, manifest.Annotations = platform, map[string]string{"io.containerd.image.name": im.Name}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []descriptor{manifest}})
	if err != nil {
		return err
	}
	if err := writeFile(w, "index.json", file{mode: 0o644, data: string(index)}); err != nil {
		return err
	}
	return writeFile(w, "oci-layout", file{mode: 0o644, data: `{"imageLayoutVersion":"1.0.0"}`})
}

func writeBlob(w *tar.Writer, mediaType string, content any) (descriptor, error) {
	text, err := json.Marshal(content)
	if err != nil {
		return descriptor{}, err
	}
	hash := sha256.Sum256(text)
	d := descriptor{MediaType: mediaType, Digest: "sha256:" + hex.EncodeToString(hash[:]), Size: int64(len(text))}
	return d, writeFile(w, blob(d.Digest), file{mode: 0o644, data: string(text)})
}

func blob(digest string) string { return "blobs/sha256/" + digest[len("sha256:"):] }
