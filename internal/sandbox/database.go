package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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

// DatabaseVar is the environment variable that names the Product of every Config
// that names none.
const DatabaseVar = "FLASHSALE_TEST_DATABASE"

// databaseProgram is how one product's server is run.
type databaseProgram struct {
	product Product
	name    string   // of the program, for people
	argv    []string // how it is started: the program, or its loader and the program
	// settings are beside those that both products have.
	settings []string
	// accounts is the SQL of a new server's only account.
	accounts func(create string) string
	// install makes a data folder.
	install func(ctx context.Context, program *databaseProgram, dataDir string) error
}

// findDatabase looks for the product's programs. With "" it is what the
// environment says, or else MySQL where there is one, and MariaDB otherwise.
func findDatabase(product Product) (*databaseProgram, error) {
	switch product = cmp.Or(product, Product(os.Getenv(DatabaseVar))); product {
	case RealMySQL:
		return findMySQL()
	case MariaDB:
		return findMariaDB()
	case "":
		program, err := findMySQL()
		var missing *MissingError
		if errors.As(err, &missing) {
			return findMariaDB()
		}
		return program, err
	}
	return nil, fmt.Errorf("there is no database %q: mysql or mariadb", product)
}

// mysqlFolder is where scripts/mysql has put a MySQL with its own C library.
func mysqlFolder() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(cache, "flashsale", "mysql")
}

func findMySQL() (*databaseProgram, error) {
	program := &databaseProgram{
		product: RealMySQL, name: "mysqld",
		settings: []string{mysqlRedoLog, "--mysqlx=OFF", "--secure-file-priv="},
		accounts: func(create string) string { return "DROP USER IF EXISTS 'root'@'localhost';\n" + create },
		install:  initialize,
	}
	if path, err := findProgram("mysqld", ""); err == nil && !isMariaDB(path) {
		program.argv = []string{path}
		return program, nil
	}
	// Its own loader, or it would be run with this machine's C library.
	folder := mysqlFolder()
	loaders, _ := filepath.Glob(filepath.Join(folder, "lib", "*", "ld-linux*.so.*")) // the pattern is well formed
	if len(loaders) == 0 {
		return nil, &MissingError{Program: "mysqld", Get: "scripts/setup --mysql", err: exec.ErrNotFound}
	}
	program.argv = []string{loaders[0], "--library-path", filepath.Dir(loaders[0]), filepath.Join(folder, "sbin", "mysqld")}
	program.settings = append(program.settings,
		"--lc-messages-dir="+filepath.Join(folder, "share", "mysql"), "--plugin-dir="+filepath.Join(folder, "lib", "mysql", "plugin"))
	return program, nil
}

// isMariaDB is whether a program named mysqld is MariaDB's, under its old name.
func isMariaDB(path string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), versionTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	return err != nil || strings.Contains(string(out), "MariaDB")
}

const (
	versionTimeout = 5 * time.Second
	// mysqlRedoLog is the size of MySQL's redo log, with which the data folder is
	// made, too.
	mysqlRedoLog = "--innodb-redo-log-capacity=64M"
)

// initialize makes a MySQL's data folder. Its only account, root without a password,
// is replaced before anybody is let in.
func initialize(ctx context.Context, program *databaseProgram, dataDir string) error {
	args := append([]string{"--no-defaults", "--initialize-insecure", "--skip-log-bin", "--datadir=" + dataDir}, program.settings...)
	if user := superuser(); user != "" {
		args = append(args, "--user="+user)
	}
	return runToItsEnd(ctx, program.name+" --initialize", append(program.argv[:len(program.argv):len(program.argv)], args...), filepath.Dir(dataDir))
}

func findMariaDB() (*databaseProgram, error) {
	server, err := findProgram("mariadbd", mariadbPackages)
	if err != nil {
		return nil, err
	}
	install, err := findProgram("mariadb-install-db", mariadbPackages)
	if err != nil {
		return nil, err
	}
	return &databaseProgram{
		product: MariaDB, name: "mariadbd", argv: []string{server},
		settings: []string{mariadbLogSize, "--performance-schema=OFF"},
		accounts: func(create string) string {
			return "DELETE FROM mysql.global_priv WHERE User='root';\nFLUSH PRIVILEGES;\n" + create
		},
		install: func(ctx context.Context, _ *databaseProgram, dataDir string) error {
			return installMariaDB(ctx, install, dataDir)
		},
	}, nil
}

const (
	// mariadbPackages are Debian's: the second has the my_print_defaults that
	// mariadb-install-db calls. Neither starts a service.
	mariadbPackages = "mariadb-server-core mariadb-client-core"
	// mariadbLogSize is the size of the redo log. The data folder is made with
	// it, too: a server that finds another size makes its log anew.
	mariadbLogSize = "--innodb-log-file-size=64M"
)

// installMariaDB makes a MariaDB's data folder.
func installMariaDB(ctx context.Context, program, dataDir string) error {
	argv := []string{
		program, "--no-defaults", "--datadir=" + dataDir, "--auth-root-authentication-method=normal",
		"--skip-test-db", mariadbLogSize,
		"--cross-bootstrap", // neither looks up this host's name nor makes accounts for it
	}
	if user := superuser(); user != "" {
		// The script's own --user also changes the owner of the installed
		// server's PAM helper, which is not ours to touch. It hands on what it
		// does not know, and mariadbd takes any option with "loose-" before it.
		argv = append(argv, "--loose-user="+user)
	}
	return runToItsEnd(ctx, "mariadb-install-db", argv, filepath.Dir(dataDir))
}
