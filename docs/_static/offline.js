// A page that is opened as a file may not read other files: search shows titles without extracts.
if (window.location.protocol === 'file:') {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}
