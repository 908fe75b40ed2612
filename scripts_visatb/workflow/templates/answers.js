"use strict";
// The filters stand in the address, so that a cell of the report can link to its answers: #task=Grounding&who=visatb
const form = document.querySelector("form.filters");
const sections = [...document.querySelectorAll("section[data-task]")];
const choices = { task: form.elements.task, who: form.elements.who };

function show() {
  const task = choices.task.value, who = choices.who.value;
  let count = 0, total = 0;
  for (const section of sections) {
    let left = 0;
    for (const card of section.querySelectorAll("article")) {
      const outcome = card.dataset.outcome;
      const fits = who === "" || who === outcome || (who === "differ" && (outcome === "visatb" || outcome === "ew"));
      card.hidden = !fits;
      left += fits ? 1 : 0;
      total += 1;
    }
    section.hidden = (task !== "" && task !== section.dataset.task) || (left === 0 && who !== "");
    count += section.hidden ? 0 : left;
  }
  form.querySelector("output").textContent = `${count} of ${total} records`;
}

function read() {
  const asked = new URLSearchParams(location.hash.slice(1));
  for (const [name, select] of Object.entries(choices)) {
    select.value = asked.get(name) ?? "";
    if (select.selectedIndex < 0) select.value = "";
  }
  show();
}

function write() {
  const chosen = Object.entries(choices).map(([name, select]) => [name, select.value]).filter(([, value]) => value);
  history.replaceState(null, "", "#" + new URLSearchParams(chosen));
  show();
}

form.addEventListener("change", write);
form.addEventListener("reset", () => setTimeout(write));
form.addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("hashchange", read);
form.hidden = false;
read();
