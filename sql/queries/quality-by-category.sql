-- In which categories are the newest day's reasons good? How many were accepted, and the means of those that were.
-- Reads reason_score and item. No parameters. An item counts in each of its categories; histories are about no item.
with categories as (
    select item_id, unnest(categories) as category from item
),
reasons as (
    select coalesce(c.category, '(none)') as category, s.accepted, s.score, s.grounding, s.n_words
    from reason_score as s
    left join categories as c on c.item_id = s.item_id
    where s.item_id is not null and s.dt = (select max(dt) from reason_score)
)
select
    category,
    count(*) as reasons,
    round(100.0 * count(*) filter (where accepted) / count(*), 1) as accepted_percent,
    round(avg(score) filter (where accepted), 3) as score,
    round(avg(grounding) filter (where accepted), 3) as grounding,
    round(avg(n_words) filter (where accepted), 1) as words
from reasons
group by category
order by reasons desc, category
