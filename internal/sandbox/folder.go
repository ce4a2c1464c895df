package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	// folderPrefix starts the name of everything that a sandbox creates in the
	// system's temporary folder. A sweep may remove any other folder with this prefix.
	folderPrefix = "flashsale-"
	// ownerFile is locked by the process that owns the folder.
	ownerFile = "owner"
	// folderTries bounds how often a new folder is lost to the sweep of another
	// process, between its creation and its locking.
	folderTries = 10
)

// folder holds the data and the logs of a server or a Stack.
type folder struct {
	path  string
	owner *os.File // locked while this process lives; nil for a folder that the user named
}

// openFolder creates path, or a temporary folder for "". It refuses a folder that
// is not empty: it may hold another server's data.
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

// remove removes a temporary folder. It keeps a folder that the user named.
func (f *folder) remove() error {
	if f.owner == nil {
		return nil
	}
	err := os.RemoveAll(f.path)
	return errors.Join(err, f.owner.Close())
}

// TempFolder creates a folder in the system's temporary folder. If this process is killed,
// the start of a later sandbox removes it.
func TempFolder() (path string, remove func() error, err error) {
	if err := checkHost(); err != nil {
		return "", nil, err
	}
	f, err := tempFolder()
	if err != nil {
		return "", nil, err
	}
	return f.path, f.remove, nil
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
	return nil, fmt.Errorf("create a temporary folder: %w", last)
}

func lockOwner(path string) (owner *os.File, err error) {
	owner, err = os.OpenFile(filepath.Join(path, ownerFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, owner.Close())
		}
	}()
	if err := lockFile(owner); err != nil {
		return nil, err
	}
	// A sweep may have held the lock before and removed the file.
	opened, err := owner.Stat()
	if err != nil {
		return nil, err
	}
	current, err := os.Stat(owner.Name())
	if err == nil && !os.SameFile(opened, current) {
		err = fs.ErrNotExist
	}
	return owner, err
}

// sweep removes temporary folders whose processes were killed. It tests a file
// lock, not a process id: ids are reused, and differ between containers that share
// the folder.
func sweep() {
	paths, err := filepath.Glob(filepath.Join(os.TempDir(), folderPrefix+"*"))
	if err != nil {
		return
	}
	for _, path := range paths {
		sweepOne(path)
	}
}

// sweepOne does nothing on an error: the folder is in use, belongs to another user,
// or is being swept by another process.
func sweepOne(path string) {
	info, err := os.Lstat(path)
	if err != nil || !info.IsDir() {
		return
	}
	owner, err := os.Open(filepath.Join(path, ownerFile))
	if errors.Is(err, fs.ErrNotExist) {
		_ = os.Remove(path) // fails unless it is empty; a process that has just created it tries again
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
