package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	// folderPrefix begins the name of everything that a sandbox puts into the
	// system's folder for temporary files.
	folderPrefix = "flashsale-"
	// ownerFile is locked by the process that a folder belongs to.
	ownerFile = "owner"
	// folderTries is how often a sweep of another process may take a folder
	// away between its making and its locking.
	folderTries = 10
)

// folder is where a stack keeps its data and its logs.
type folder struct {
	path  string
	owner *os.File // locked while its process lives; nil for a folder of the user's
}

// openFolder makes path if need be, or a temporary folder for "". A folder that
// holds something already is refused: it may be another server's data.
func openFolder(path string) (*folder, error) {
	if err := checkHost(); err != nil {
		return nil, err
	}
	if path == "" {
		sweep()
		return tempFolder()
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	if len(entries) > 0 {
		return nil, fmt.Errorf("folder %s is not empty", path)
	}
	return &folder{path: path}, nil
}

// remove removes a temporary folder, and leaves one of the user's.
func (f *folder) remove() error {
	if f.owner == nil {
		return nil
	}
	err := os.RemoveAll(f.path)
	return errors.Join(err, f.owner.Close())
}

func tempFolder() (*folder, error) {
	var last error
	for range folderTries {
		path, err := os.MkdirTemp("", folderPrefix)
		if err != nil {
			return nil, err
		}
		owner, err := lockOwner(path)
		if err == nil {
			return &folder{path: path, owner: owner}, nil
		}
		last = err
	}
	return nil, fmt.Errorf("make a temporary folder: %w", last)
}

func lockOwner(path string) (*os.File, error) {
	owner, err := os.OpenFile(filepath.Join(path, ownerFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lockFile(owner); err != nil {
		return nil, errors.Join(err, owner.Close())
	}
	// A sweep may have had the lock before us, and have removed what we opened.
	opened, err := owner.Stat()
	if err != nil {
		return nil, errors.Join(err, owner.Close())
	}
	stands, err := os.Stat(owner.Name())
	if err == nil && !os.SameFile(opened, stands) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, errors.Join(err, owner.Close())
	}
	return owner, nil
}

// sweep removes the temporary folders of processes that were killed and could
// not do it. A lock on a file tells who lives better than a process id would:
// ids come round again, and mean nothing across containers that share a folder.
func sweep() {
	paths, err := filepath.Glob(filepath.Join(os.TempDir(), folderPrefix+"*"))
	if err != nil {
		return
	}
	for _, path := range paths {
		sweepOne(path)
	}
}

// sweepOne does nothing on any error: the folder is then in use, another
// user's, or swept by another at the same time.
func sweepOne(path string) {
	info, err := os.Lstat(path)
	if err != nil || !info.IsDir() {
		return
	}
	owner, err := os.Open(filepath.Join(path, ownerFile))
	if errors.Is(err, fs.ErrNotExist) {
		_ = os.Remove(path) // only if it is empty, as one just made: its maker tries again
		return
	}
	if err != nil {
		return
	}
	defer owner.Close()
	if lockFile(owner) != nil {
		return
	}
	_ = os.RemoveAll(path)
}
