package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Product is a database that the service runs on.
type Product string

// The products.
const (
	RealMySQL Product = "mysql"
	MariaDB   Product = "mariadb"
)

// DatabaseVar is the environment variable that names the default Product.
const DatabaseVar = "FLASHSALE_TEST_DATABASE"

// databaseProgram is how one product's server is run.
type databaseProgram struct {
	product Product
	name    string   // of the program, for people
	argv    []string // the program, or its loader and the program
	// settings are those that only this product has.
	settings []string
	// accounts is the SQL that leaves a new server with the account that create makes.
	accounts func(create string) string
	// install is the command line that creates a data folder.
	install func(program *databaseProgram, dataDir string) []string
}

// DatabaseInstalled returns a *MissingError if the default product is not installed.
func DatabaseInstalled() error {
	_, err := findDatabase("")
	return err
}

// findDatabase finds the product's programs. With "" the product is the one that
// DatabaseVar names, or else MySQL if it is installed, or else MariaDB.
func findDatabase(product Product) (*databaseProgram, error) {
	switch product = cmp.Or(product, Product(os.Getenv(DatabaseVar))); product {
	case RealMySQL:
		return findMySQL()
	case MariaDB:
		return findMariaDB()
	case "":
		program, err := findMySQL()
		if _, missing := errors.AsType[*MissingError](err); missing {
			return findMariaDB()
		}
		return program, err
	}
	return nil, fmt.Errorf("unknown database %q: must be mysql or mariadb", product)
}

func findMySQL() (*databaseProgram, error) {
	program := &databaseProgram{
		product: RealMySQL, name: "mysqld",
		settings: []string{mysqlRedoLog, "--mysqlx=OFF", "--secure-file-priv="},
		accounts: func(create string) string { return "DROP USER IF EXISTS 'root'@'localhost';\n" + create },
		install:  initialize,
	}
	if path, err := findProgram("mysqld", source{}); err == nil && !isMariaDB(path) {
		program.argv = []string{path}
		return program, nil
	}
	// scripts/mysql installs a MySQL with its own C library, which needs its own loader.
	folder, err := cacheFolder("mysql")
	if err != nil {
		return nil, err
	}
	loaders, _ := filepath.Glob(filepath.Join(folder, "lib", "*", "ld-linux*.so.*")) // the pattern is valid
	if len(loaders) == 0 {
		return nil, &MissingError{Program: "mysqld", Do: "run `scripts/setup --mysql`" + ownDatabase, err: exec.ErrNotFound}
	}
	program.argv = []string{loaders[0], "--library-path", filepath.Dir(loaders[0]), filepath.Join(folder, "sbin", "mysqld")}
	program.settings = append(program.settings,
		"--lc-messages-dir="+filepath.Join(folder, "share", "mysql"), "--plugin-dir="+filepath.Join(folder, "lib", "mysql", "plugin"))
	return program, nil
}

// isMariaDB reports whether a program named mysqld is MariaDB's, under its old name.
func isMariaDB(path string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), versionTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	return err != nil || strings.Contains(string(out), "MariaDB")
}

const (
	versionTimeout = 5 * time.Second
	// mysqlRedoLog and mariadbLogSize are the size of the redo log. The data folder
	// is created with it, too: MariaDB recreates a log of another size.
	mysqlRedoLog   = "--innodb-redo-log-capacity=64M"
	mariadbLogSize = "--innodb-log-file-size=64M"
)

// initialize creates MySQL's data folder. Its only account, root without a password,
// is replaced before the server accepts clients.
func initialize(program *databaseProgram, dataDir string) []string {
	args := append([]string{"--no-defaults", "--initialize-insecure", "--skip-log-bin", "--datadir=" + dataDir}, program.settings...)
	if user := superuser(); user != "" {
		args = append(args, "--user="+user)
	}
	return slices.Concat(program.argv, args)
}

func findMariaDB() (*databaseProgram, error) {
	server, err := findProgram("mariadbd", mariadbPackages)
	var install string
	if err == nil {
		install, err = findProgram("mariadb-install-db", mariadbPackages)
	}
	if missing, ok := errors.AsType[*MissingError](err); ok {
		missing.Do += ownDatabase
	}
	if err != nil {
		return nil, err
	}
	return &databaseProgram{
		product: MariaDB, name: "mariadbd", argv: []string{server},
		settings: []string{mariadbLogSize, "--performance-schema=OFF"},
		accounts: func(create string) string {
			return "DELETE FROM mysql.global_priv WHERE User='root';\nFLUSH PRIVILEGES;\n" + create
		},
		install: func(_ *databaseProgram, dataDir string) []string { return installMariaDB(install, dataDir) },
	}, nil
}

// mariadbPackages are Debian's. The second contains my_print_defaults, which
// mariadb-install-db calls. Neither starts a service.
var mariadbPackages = source{"make setup", "mariadb-server-core mariadb-client-core"}

// installMariaDB creates MariaDB's data folder.
func installMariaDB(program, dataDir string) []string {
	argv := []string{
		program, "--no-defaults", "--datadir=" + dataDir, "--auth-root-authentication-method=normal",
		"--skip-test-db", mariadbLogSize,
		"--cross-bootstrap", // creates no accounts for this host's name
	}
	if user := superuser(); user != "" {
		// The script's own --user would also change the owner of the installed PAM
		// helper. The script passes unknown options on, and mariadbd accepts any
		// option that starts with "loose-".
		argv = append(argv, "--loose-user="+user)
	}
	return argv
}
