-- +goose Up

-- MySQL commits each statement by itself. Each can run again, so that a migration
-- that failed half way continues from there.

-- sku, customer and key are VARBINARY, compared byte by byte. With the usual
-- collations 'A' equals 'a', and even in utf8mb4_bin 'k' equals 'k ': different
-- keys would become one.
--
-- There is no CHECK (available >= 0), because some strategies oversell on purpose
-- and the audit must show it. There is no foreign key, because it would lock the
-- stock row again for each order.
--
-- revision grows with each change by an administrator, not with sales. The row of a
-- withdrawn SKU stays, because its orders do.
CREATE TABLE IF NOT EXISTS stock (
  sku                VARBINARY(64)   NOT NULL,
  name               VARCHAR(255)    NOT NULL,
  price_cents        BIGINT          NOT NULL,
  currency           CHAR(3)         NOT NULL,
  units              BIGINT          NOT NULL,
  available          BIGINT          NOT NULL,
  per_customer_limit INT             NULL,
  hold_policy        ENUM('lenient','strict') NOT NULL DEFAULT 'lenient',
  visible_from       DATETIME(6)     NULL,
  sale_starts_at     DATETIME(6)     NULL,
  sale_ends_at       DATETIME(6)     NULL,
  withdrawn_at       DATETIME(6)     NULL,
  fence              BIGINT UNSIGNED NOT NULL DEFAULT 0,
  seq                BIGINT UNSIGNED NOT NULL DEFAULT 0,
  revision           BIGINT UNSIGNED NOT NULL DEFAULT 1,
  created_at         DATETIME(6)     NOT NULL,
  updated_at         DATETIME(6)     NOT NULL,
  PRIMARY KEY (sku)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- id is a UUID of version 7, so that rows arrive in the order of the primary key.
-- price, limit and fingerprint are those of the time when the order was made; fence
-- and seq are those of the write that admitted it. closed_at is when the order was
-- paid, cancelled or expired. returned_by names the write that returned its units: the
-- same transaction adds the units of that name to the stock, so that they return once.
--
-- The cost of an INSERT is mostly its indexes (BenchmarkInsertBatch of package order).
-- New entries of of_sku are at the end of their SKU's, and new entries of expiring at
-- the end of the reserved ones. Entries of one_order_a_key are anywhere, which costs
-- several times as much: so there is no second index that begins with the customer.
-- InnoDB appends the primary key to each index entry. It includes the SKU so that
-- one_order_a_key shows which of a customer's orders count for a SKU's limit, and
-- expiring shows the SKU of each due order.
CREATE TABLE IF NOT EXISTS orders (
  id                 BINARY(16)      NOT NULL,
  sku                VARBINARY(64)   NOT NULL,
  customer           VARBINARY(255)  NOT NULL,
  idempotency_key    VARBINARY(255)  NOT NULL,
  fingerprint        BINARY(32)      NOT NULL,
  quantity           INT             NOT NULL,
  price_cents        BIGINT          NOT NULL,
  currency           CHAR(3)         NOT NULL,
  per_customer_limit INT             NULL,
  status             ENUM('reserved','paid','cancelled','expired') NOT NULL,
  fence              BIGINT UNSIGNED NOT NULL,
  seq                BIGINT UNSIGNED NOT NULL,
  created_at         DATETIME(6)     NOT NULL,
  expires_at         DATETIME(6)     NOT NULL,
  closed_at          DATETIME(6)     NULL,
  payment_reference  VARBINARY(255)  NULL,
  returned_by        BINARY(16)      NULL,
  PRIMARY KEY (id, sku),
  UNIQUE KEY one_order_a_key (customer, idempotency_key),
  KEY of_sku (sku, seq),
  KEY expiring (status, expires_at, id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- Purged orders, with their keys. The audit counts their units, so that a purge does
-- not change the stock.
CREATE TABLE IF NOT EXISTS archived_orders (
  id                 BINARY(16)      NOT NULL,
  sku                VARBINARY(64)   NOT NULL,
  customer           VARBINARY(255)  NOT NULL,
  idempotency_key    VARBINARY(255)  NOT NULL,
  fingerprint        BINARY(32)      NOT NULL,
  quantity           INT             NOT NULL,
  price_cents        BIGINT          NOT NULL,
  currency           CHAR(3)         NOT NULL,
  per_customer_limit INT             NULL,
  status             ENUM('reserved','paid','cancelled','expired') NOT NULL,
  fence              BIGINT UNSIGNED NOT NULL,
  seq                BIGINT UNSIGNED NOT NULL,
  created_at         DATETIME(6)     NOT NULL,
  expires_at         DATETIME(6)     NOT NULL,
  closed_at          DATETIME(6)     NULL,
  payment_reference  VARBINARY(255)  NULL,
  returned_by        BINARY(16)      NULL,
  archived_at        DATETIME(6)     NOT NULL,
  PRIMARY KEY (id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- Units that were added after the SKU was created. seq is that of the write.
CREATE TABLE IF NOT EXISTS restocks (
  id              BINARY(16)      NOT NULL,
  sku             VARBINARY(64)   NOT NULL,
  idempotency_key VARBINARY(255)  NOT NULL,
  fingerprint     BINARY(32)      NOT NULL,
  units           INT             NOT NULL,
  created_at      DATETIME(6)     NOT NULL,
  seq             BIGINT UNSIGNED NOT NULL,
  PRIMARY KEY (id),
  UNIQUE KEY one_restock_a_key (idempotency_key)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- The order of each payment reference. A payment pays or is refunded for that order alone,
-- also after the order was purged. It is a table of its own because a unique index of
-- orders would make each INSERT slower, and would not include archived_orders.
CREATE TABLE IF NOT EXISTS payments (
  reference VARBINARY(255) NOT NULL,
  order_id  BINARY(16)     NOT NULL,
  PRIMARY KEY (reference)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- Payments that bought nothing, to be refunded. They are kept after their orders.
CREATE TABLE IF NOT EXISTS late_payments (
  order_id    BINARY(16)     NOT NULL,
  customer    VARBINARY(255) NOT NULL,
  reference   VARBINARY(255) NOT NULL,
  received_at DATETIME(6)    NOT NULL,
  PRIMARY KEY (order_id, reference),
  KEY oldest (received_at, order_id, reference)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- Orders of one customer under --max-unpaid lock this row, one after another, so that each
-- counts the others. Rows are added at the first order, and purged when they are old.
CREATE TABLE IF NOT EXISTS customers (
  customer   VARBINARY(255) NOT NULL,
  ordered_at DATETIME(6)    NOT NULL,
  PRIMARY KEY (customer)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- Which replica runs a task that only one may run at a time: see package mysqllock.
CREATE TABLE IF NOT EXISTS leases (
  name       VARBINARY(255)  NOT NULL,
  owner      VARBINARY(512)  NOT NULL,
  token      BIGINT UNSIGNED NOT NULL,
  expires_at DATETIME(6)     NOT NULL,
  PRIMARY KEY (name)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- One row: the strategy, the fence and the token source that this database is bound to.
-- Tokens of two sources must never be compared, and two strategies must not write the
-- same stock.
CREATE TABLE IF NOT EXISTS guard (
  id           TINYINT      NOT NULL,
  strategy     VARCHAR(64)  NOT NULL,
  fence        VARCHAR(16)  NOT NULL,
  token_source VARCHAR(255) NOT NULL,
  since        DATETIME(6)  NOT NULL,
  PRIMARY KEY (id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- For each later version of the schema: the oldest program that it serves, given as the
-- newest schema version that the program knows.
CREATE TABLE IF NOT EXISTS serves (
  version INT NOT NULL,
  least   INT NOT NULL,
  PRIMARY KEY (version)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- +goose Down
DROP TABLE serves;
DROP TABLE guard;
DROP TABLE leases;
DROP TABLE customers;
DROP TABLE late_payments;
DROP TABLE payments;
DROP TABLE restocks;
DROP TABLE archived_orders;
DROP TABLE orders;
DROP TABLE stock;
