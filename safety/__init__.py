"""What is wrong with a report before it is signed: pure rules over text and facts, no database, no web."""
