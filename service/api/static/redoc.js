// Shows the API's description in ReDoc.

Redoc.init(
  new URL("../openapi.json", document.currentScript.src).href,
  { hideDownloadButtons: false },
  document.getElementById("redoc"),
);
