-- +goose Up

-- Everything here is added: a program of version 1 names the columns that it
-- writes, and goes on serving beside one of version 2. MySQL commits each
-- statement by itself, and has no ADD COLUMN IF NOT EXISTS: each can be run again,
-- so that one that failed half way goes on from there.

-- closed_at is when an order was paid, cancelled or expired. returned_by names
-- the write that gave its units back: they are added to the stock by that name,
-- in the same transaction, so that they return once. Due orders are found by
-- expiring, and a customer's orders, the newest first, by of_customer.
SET @ddl = IF((SELECT COUNT(*) FROM information_schema.COLUMNS
    WHERE table_schema = DATABASE() AND table_name = 'orders' AND column_name = 'closed_at') > 0, 'DO 0',
  'ALTER TABLE orders
    ADD COLUMN closed_at         DATETIME(6)    NULL,
    ADD COLUMN payment_reference VARBINARY(255) NULL,
    ADD COLUMN returned_by       BINARY(16)     NULL,
    ADD KEY expiring (status, expires_at),
    ADD KEY of_customer (customer, id)');
PREPARE ddl FROM @ddl;
EXECUTE ddl;
DEALLOCATE PREPARE ddl;

-- revision moves with each change by an administrator, not with sales. reopened is
-- the seq at which units came back when none were left: before they are sold, no
-- replica may refuse orders any more by what was before it.
SET @ddl = IF((SELECT COUNT(*) FROM information_schema.COLUMNS
    WHERE table_schema = DATABASE() AND table_name = 'stock' AND column_name = 'revision') > 0, 'DO 0',
  'ALTER TABLE stock
    ADD COLUMN revision BIGINT UNSIGNED NOT NULL DEFAULT 1,
    ADD COLUMN reopened BIGINT UNSIGNED NOT NULL DEFAULT 0');
PREPARE ddl FROM @ddl;
EXECUTE ddl;
DEALLOCATE PREPARE ddl;

-- Units that were put on sale after the SKU was. seq is that of the write.
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

-- Payments that bought nothing, to be refunded. They outlast their orders.
CREATE TABLE IF NOT EXISTS late_payments (
  order_id    BINARY(16)     NOT NULL,
  customer    VARBINARY(255) NOT NULL,
  reference   VARBINARY(255) NOT NULL,
  received_at DATETIME(6)    NOT NULL,
  PRIMARY KEY (order_id, reference),
  KEY oldest (received_at, order_id, reference)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- Orders that were purged, with their keys. The audit counts their units, so that
-- purging need not touch the stock.
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

-- Which replica has a task that one has at a time: a lock-table, see mysqllock.
CREATE TABLE IF NOT EXISTS leases (
  name       VARBINARY(255)  NOT NULL,
  owner      VARBINARY(512)  NOT NULL,
  token      BIGINT UNSIGNED NOT NULL,
  expires_at DATETIME(6)     NOT NULL,
  PRIMARY KEY (name)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- For each version of the schema, the oldest program that it serves, by the
-- newest version which that program knows.
CREATE TABLE IF NOT EXISTS serves (
  version INT NOT NULL,
  least   INT NOT NULL,
  PRIMARY KEY (version)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
INSERT INTO serves (version, least) SELECT 2, 1 FROM (SELECT COUNT(*) AS n FROM serves WHERE version = 2) there WHERE n = 0;

-- +goose Down
DROP TABLE serves;
DROP TABLE leases;
DROP TABLE archived_orders;
DROP TABLE late_payments;
DROP TABLE restocks;
ALTER TABLE stock DROP COLUMN revision, DROP COLUMN reopened;
ALTER TABLE orders
  DROP KEY of_customer,
  DROP KEY expiring,
  DROP COLUMN returned_by,
  DROP COLUMN payment_reference,
  DROP COLUMN closed_at;
