// The operator's page is a client of the public and the administrators' API.

import { start } from "./admin-session.js";
import { showLate } from "./admin-reports.js";
import { showSellers } from "./admin-sellers.js";
import { showSKUs } from "./admin-skus.js";

start(() => {
  showSKUs();
  showSellers();
  showLate();
});
